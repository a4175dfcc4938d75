//! Random text that cannot be guessed.

use std::fmt::Write as _;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Returns 64 hexadecimal digits from the kernel's random generator (getrandom(2)).
///
/// # Errors
/// The kernel returns no random bytes, for example because a sandbox forbids the call.
pub fn secret() -> io::Result<String> {
    let mut bytes = [0; 32];
    // Up to 256 bytes are returned by one call.
    let read = getrandom(&mut bytes, GetRandomFlags::empty())?;
    if read != bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing into memory cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_are_never_the_same() {
        let (one, two) = (secret().unwrap(), secret().unwrap());
        assert!(one.len() == 64 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }
}
