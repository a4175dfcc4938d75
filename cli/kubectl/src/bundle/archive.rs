//! A tar archive in memory (POSIX.1-1988 ustar), compressed by gzip. Only what a bundle needs:
//! regular files with short names.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

const BLOCK: usize = 512;

/// Packs files, each with its name and content, in this order.
///
/// # Errors
/// Compressing fails, which needs memory only.
pub(crate) fn pack(files: &[(String, Vec<u8>)], seconds: u64) -> std::io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    for (name, content) in files {
        packed.write_all(&header(name, content.len(), seconds))?;
        packed.write_all(content)?;
        let rest = content.len() % BLOCK;
        if rest > 0 {
            packed.write_all(&vec![0; BLOCK - rest])?;
        }
    }
    packed.write_all(&[0; 2 * BLOCK])?;
    packed.finish()
}

/// The header of a regular file. Names are made of those of Kubernetes, so that they fit into 100
/// bytes with a directory of at most 155 before them.
fn header(name: &str, size: usize, seconds: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut set = |at: usize, bytes: &[u8], most: usize| {
        let len = bytes.len().min(most);
        header[at..at + len].copy_from_slice(&bytes[..len]);
    };
    let (directory, file) = match name.rsplit_once('/') {
        Some((directory, file)) if name.len() > 100 => (directory, file),
        _ => ("", name),
    };
    set(0, file.as_bytes(), 100);
    set(100, b"0000644\0", 8);
    set(108, b"0000000\0", 8);
    set(116, b"0000000\0", 8);
    set(124, format!("{size:011o}\0").as_bytes(), 12);
    set(136, format!("{seconds:011o}\0").as_bytes(), 12);
    // The checksum counts its own field as spaces.
    set(148, b"        ", 8);
    set(156, b"0", 1);
    set(257, b"ustar\x0000", 8);
    set(345, directory.as_bytes(), 155);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_unpacks_it() {
        let long = format!("bundle/{}/{}.json", "d".repeat(60), "f".repeat(63));
        let files = [
            ("bundle/manifest.json".to_owned(), b"{}".to_vec()),
            (long.clone(), vec![b'x'; 1_000]),
            ("bundle/empty".to_owned(), Vec::new()),
        ];
        let packed = pack(&files, 1_000_000_000).unwrap();
        let mut tar = Command::new("tar")
            .args(["-tvzf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&packed).unwrap();
        let listed = tar.wait_with_output().unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.contains("1000") && listed.contains(&long),
            "{listed}"
        );
        assert!(listed.contains("2001-09-0"), "{listed}");
    }
}
