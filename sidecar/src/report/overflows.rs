//! The number of connections that the kernel dropped because an accept queue was full
//! (`ListenOverflows` in `/proc/net/netstat`). The number is that of the whole network namespace,
//! which in a pod is the pod's own.

use std::fs;

/// The number since the namespace began; `None` if the kernel does not report it.
pub(super) fn count() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/net/netstat").ok()?)
}

/// Parses the file. Each group has two lines: names, and values in the same order.
fn parse(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, count) = pairs.find(|(name, _)| *name == "ListenOverflows")?;
    count.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 27 28\n\
                    IpExt: InNoRoutes ListenOverflows\nIpExt: 3 4\n";
        assert_eq!(parse(text), Some(27));
        for other in ["", "TcpExt: A ListenOverflows\n", "TcpExt: A\nTcpExt: 1\n"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert!(count().is_some(), "this kernel reports it");
    }
}
