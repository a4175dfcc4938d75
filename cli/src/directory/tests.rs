//! Tests of which directories are refused as unsafe.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

const WE: Trusted = Trusted {
    us: 1000,
    group: 1000,
    machine: 0,
};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_directory_on_the_way_must_be_ours_or_roots_and_not_writable_by_others() {
    for (uid, gid, mode, ok) in [
        (0, 0, 0o755, true),
        (1000, 1000, 0o700, true),
        // The private group of a user, with umask 002.
        (1000, 1000, 0o775, true),
        // As `/tmp` is.
        (0, 0, 0o1777, true),
        (0, 0, 0o777, false),
        (0, 50, 0o2775, false),
        (1001, 1001, 0o755, false),
        (1001, 1001, 0o1777, false),
    ] {
        let checked = WE.on_the_way(Path::new("/x"), uid, gid, mode);
        assert_eq!(checked.is_ok(), ok, "{uid} {gid} {mode:o}");
    }
}

#[test]
fn missing_directories_are_made_private_and_removed_again() {
    let home = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    let inner = Directory::make(&home.path().join("a/b"), &mut made).unwrap();
    assert_eq!(inner.stat().unwrap().st_mode & 0o7777, 0o700);
    assert_eq!(
        fs::metadata(home.path().join("a")).unwrap().mode() & 0o7777,
        0o700
    );
    for made in &made {
        made.remove();
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn our_own_links_and_parents_are_followed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    fs::create_dir_all(home.join("real/inner")).unwrap();
    mode(&home.join("real/inner"), 0o700);
    symlink("real", home.join("link")).unwrap();
    symlink(home.join("real/inner"), home.join("far")).unwrap();
    for way in ["link/inner", "link/../real/inner", "far", "real/./inner/"] {
        let directory = Directory::open(&home.join(way)).unwrap();
        assert_eq!(directory.path(), home.join("real/inner"), "{way}");
    }
    symlink("around", home.join("around")).unwrap();
    let error = Directory::open(&home.join("around/x")).unwrap_err();
    assert!(matches!(error, Unsafe::Io(..)), "{error}");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_with_the_cure() {
    let home = tempfile::tempdir().unwrap();
    let open = home.path().join("open");
    fs::create_dir(&open).unwrap();
    mode(&open, 0o777);
    for path in [open.clone(), open.join("work")] {
        let error = Directory::make(&path, &mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("chmod go-w"), "{error}");
    }
    mode(&open, 0o755);
    let parent = Directory::open(home.path()).unwrap();
    let error = parent
        .private(OsStr::new("open"), &mut Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

#[test]
fn a_file_is_not_taken_for_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let parent = Directory::open(home.path()).unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    symlink("/", home.path().join("link")).unwrap();
    rustix::fs::mknodat(CWD, home.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for name in ["file", "link", "fifo"] {
        let error = parent
            .private(OsStr::new(name), &mut Vec::new())
            .unwrap_err();
        assert!(
            matches!(error, Unsafe::NoDirectory(_) | Unsafe::Link(..)),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_file_is_replaced_and_never_written_through() {
    let home = tempfile::tempdir().unwrap();
    let victim = home.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let inner = Directory::make(&home.path().join("run"), &mut Vec::new()).unwrap();
    let name = OsStr::new("state.json");
    let path = home.path().join("run/state.json");
    // There is also a link at the first name that the new file would get.
    let guessed = format!("run/.state.json.{}.0", std::process::id());
    symlink(&victim, home.path().join(guessed)).unwrap();
    let plant: [&dyn Fn(); 3] = [
        &|| symlink(&victim, &path).unwrap(),
        &|| fs::hard_link(&victim, &path).unwrap(),
        &|| rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
    ];
    for plant in plant {
        inner.remove(name);
        plant();
        drop(inner.replace(name, b"new", For::All).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}

#[test]
fn only_a_regular_file_is_read() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x");
    fs::write(home.path().join("real"), "text").unwrap();
    symlink("real", &path).unwrap();
    assert!(matches!(read(&path), Err(Unsafe::NoFile(_))));
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(matches!(read(&path), Err(Unsafe::NoFile(_))));
    assert!(matches!(read(home.path()), Err(Unsafe::NoFile(_))));
    assert_eq!(read(&home.path().join("real")).unwrap().1, "text");
}

#[test]
fn a_secret_is_readable_by_us_only() {
    let home = tempfile::tempdir().unwrap();
    let inner = Directory::open(home.path()).unwrap();
    drop(inner.replace(OsStr::new("token"), b"x", For::Us).unwrap());
    let mode = fs::metadata(home.path().join("token")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_shows_whether_its_writer_holds_it_open() {
    let home = tempfile::tempdir().unwrap();
    let inner = Directory::open(home.path()).unwrap();
    let name = OsStr::new("state.json");
    let kept = inner.replace(name, b"x", For::All).unwrap();
    let look = || writer(&inner.read(name).unwrap().0);
    assert_eq!([look(), look()], [Writer::Lives, Writer::Lives]);
    drop(kept);
    assert_eq!([look(), look()], [Writer::Gone, Writer::Gone]);
}
