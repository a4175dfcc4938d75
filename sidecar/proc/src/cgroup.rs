//! Finds the cgroups that limit this process: its own and all its mounted ancestors, in
//! both versions of the hierarchy (cgroups(7)). `container` reads the memory
//! limits in their files, and `cores` of the supervisor reads the CPU quotas.

use std::path::{Component, Path, PathBuf};

/// A version of the cgroup hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// The hierarchy of this controller in version 1, in which each controller has its own.
    Controller(&'static str),
    /// Version 2.
    Unified,
}

/// Directories of the cgroups in which `controller` may limit this process, in version 1 and in
/// version 2. `root` replaces `/`.
///
/// To find them, the kernel has to list every mount, so call this function only once. The
/// directories stay valid: a cgroup does not move, and only the values in its files change when a
/// running pod is resized.
pub fn limiting(root: &Path, controller: &'static str) -> Vec<(PathBuf, Hierarchy)> {
    let hierarchies = [Hierarchy::Controller(controller), Hierarchy::Unified];
    let all = hierarchies.into_iter().flat_map(|hierarchy| {
        let own = own(root, hierarchy).into_iter();
        own.map(move |directory| (directory, hierarchy))
    });
    all.collect()
}

/// Directories of this process's cgroup and its ancestors in a hierarchy; empty if it is
/// not mounted.
fn own(root: &Path, hierarchy: Hierarchy) -> Vec<PathBuf> {
    let read = |path| std::fs::read_to_string(root.join(path)).ok();
    let found = read("proc/self/cgroup").zip(read("proc/self/mountinfo"));
    let Some((groups, mounts)) = found else {
        return Vec::new();
    };
    let Some(group) = own_group(&groups, hierarchy) else {
        return Vec::new();
    };
    let directories = directories(&mounts, hierarchy, &group).into_iter();
    directories.map(|directory| root.join(directory)).collect()
}

/// The path of this process's cgroup in a hierarchy, from `/proc/self/cgroup`
/// (`ID:CONTROLLERS:PATH`; version 2 has ID 0 and no controllers).
fn own_group(groups: &str, hierarchy: Hierarchy) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let found = match hierarchy {
            Hierarchy::Controller(name) => controllers.split(',').any(|known| known == name),
            Hierarchy::Unified => id == "0" && controllers.is_empty(),
        };
        found.then(|| PathBuf::from(path))
    })
}

/// The directories of `group` and its mounted ancestors, without the leading `/`.
fn directories(mounts: &str, hierarchy: Hierarchy, group: &Path) -> Vec<PathBuf> {
    let mounts: Vec<(PathBuf, PathBuf)> = mounts
        .lines()
        .filter_map(|line| parse_mount(line, hierarchy))
        .collect();
    let mut directories = Vec::new();
    for (mounted, point) in &mounts {
        let Ok(below) = group.strip_prefix(mounted) else {
            continue;
        };
        // "/../x" lies outside of this process's cgroup namespace, so no path leads there.
        if below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            directories.extend(below.ancestors().map(|ancestor| point.join(ancestor)));
        }
    }
    if directories.is_empty() {
        // The container sees only its own part of the tree, but /proc shows the group's path
        // on the host.
        directories.extend(mounts.into_iter().map(|(_, point)| point));
    }
    directories
}

/// The root and the mount point, if the line of `mountinfo` describes a mount of that
/// hierarchy: `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE SOURCE
/// SUPER-OPTIONS`.
fn parse_mount(line: &str, hierarchy: Hierarchy) -> Option<(PathBuf, PathBuf)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (mounted, point) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let found = match hierarchy {
        Hierarchy::Unified => kind == "cgroup2",
        Hierarchy::Controller(name) => {
            let mut options = filesystem.nth(1)?.split(',');
            kind == "cgroup" && options.any(|option| option == name)
        }
    };
    let point = unescape(point);
    found.then(|| {
        (
            unescape(mounted).into(),
            point.trim_start_matches('/').into(),
        )
    })
}

/// Decodes a field of `mountinfo`, which contains blank, tab, newline and backslash as `\ooo`.
fn unescape(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    escapes.iter().fold(field.to_owned(), |field, (from, to)| {
        field.replace(from, to)
    })
}
