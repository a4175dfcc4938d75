//! Decides whether a file may become the program of an image: a static program for the image's
//! platform. An image contains nothing else, so a dynamically linked program could not start, and a
//! program of another platform would be noticed only on the node.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::component::Arch;

/// How much of a file is read. Linkers write the table of segments right behind the header.
const HEAD_BYTES: u64 = 4096;
/// `PT_INTERP`: the segment with the path of the dynamic loader (elf(5)).
const INTERPRETER: u32 = 3;

/// Checks a program for `arch`.
///
/// # Errors
/// It cannot be read, is no program, is for another platform, or needs a dynamic loader.
pub(super) fn check(path: &Path, arch: Arch) -> anyhow::Result<()> {
    let mut head = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(HEAD_BYTES).read_to_end(&mut head)?;
    fits(&head, arch).with_context(|| format!("{} cannot go into an image", path.display()))
}

/// As [`check`], for the first bytes of a program (64 bit, little endian; elf(5)).
fn fits(head: &[u8], arch: Arch) -> anyhow::Result<()> {
    ensure!(
        head.starts_with(b"\x7fELF\x02\x01"),
        "it is no 64-bit program of Linux"
    );
    let wanted = match arch {
        Arch::Amd64 => 62,
        Arch::Arm64 => 183,
    };
    let machine = number::<2>(head, 18)?;
    ensure!(
        machine == wanted,
        "it is for another platform than {} (e_machine is {machine}, not {wanted})",
        arch.name()
    );
    let (table, size, count) = (
        number::<8>(head, 32)?,
        number::<2>(head, 54)?,
        number::<2>(head, 56)?,
    );
    for index in 0..count {
        let at = usize::try_from(table + index * size).context("the table is far away")?;
        if number::<4>(head, at)? == u64::from(INTERPRETER) {
            bail!(
                "it needs the C library of the machine that compiled it: `rustup target add {}` \
                 and musl-tools make it static",
                arch.target()
            );
        }
    }
    Ok(())
}

/// The unsigned number of `N` bytes at an offset.
fn number<const N: usize>(head: &[u8], at: usize) -> anyhow::Result<u64> {
    let bytes = head.get(at..).and_then(|rest| rest.get(..N));
    let bytes = bytes.context("its header is cut off")?;
    let place = |(index, byte): (usize, &u8)| u64::from(*byte) << (8 * index);
    Ok(bytes.iter().enumerate().map(place).sum())
}

/// The smallest file that passes the check, with `content` behind the header: a stand-in for a
/// program that takes minutes to compile.
#[cfg(test)]
pub(super) fn stand_in(arch: Arch, content: &str) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..6].copy_from_slice(b"\x7fELF\x02\x01");
    head[18] = if arch == Arch::Amd64 { 62 } else { 183 };
    head.extend_from_slice(content.as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_another_platform_is_refused() {
        let program = stand_in(Arch::Arm64, "");
        fits(&program, Arch::Arm64).unwrap();
        let refused = fits(&program, Arch::Amd64).unwrap_err().to_string();
        assert!(refused.contains("another platform than amd64"), "{refused}");
        fits(b"#!/bin/sh\n", Arch::Amd64).unwrap_err();
        fits(&program[..40], Arch::Arm64).unwrap_err();
    }

    #[test]
    fn a_program_that_needs_a_loader_is_refused_with_the_cure() {
        let mut program = stand_in(Arch::Amd64, "");
        let segment = u32::to_le_bytes(INTERPRETER);
        (program[32], program[54], program[56]) = (64, 56, 1);
        program.extend_from_slice(&segment);
        let refused = fits(&program, Arch::Amd64).unwrap_err().to_string();
        assert!(refused.contains("rustup target add x86_64"), "{refused}");
        // This test is linked to the C library of this machine.
        if cfg!(target_env = "gnu") && Arch::Amd64.is_ours() {
            check(&std::env::current_exe().unwrap(), Arch::Amd64).unwrap_err();
        }
    }
}
