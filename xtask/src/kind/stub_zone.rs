//! Decides how the Corefile of the cluster's DNS changes, so that pods resolve the names of our zone.

/// The zone of the chart's default values.
pub(super) const ZONE: &str = "apps.local";

/// The first line of our block, by which a later run finds it.
const MARK: &str = "# Names of ScaledApps";

/// The Corefile with a server block that forwards `zone` to `address`; `None` if it already has
/// exactly that block. A block of ours with another address is replaced, and so is only that: a
/// block for the zone that somebody has written is kept.
pub(super) fn with(corefile: &str, zone: &str, address: &str) -> Option<String> {
    let block =
        format!("{MARK}\n{zone}:53 {{\n    errors\n    cache 5\n    forward . {address}\n}}\n");
    if corefile.contains(&block) {
        return None;
    }
    let mut rest = corefile.to_owned();
    if let Some(start) = rest.find(MARK)
        && let Some(length) = rest[start..].find("\n}\n")
    {
        rest.replace_range(start..start + length + "\n}\n".len(), "");
    }
    let is_theirs = |line: &str| {
        let zones = line.split_whitespace().take_while(|word| *word != "{");
        line.ends_with('{')
            && zones
                .into_iter()
                .any(|it| it.split(':').next() == Some(zone))
    };
    if rest.lines().any(|line| is_theirs(line.trim_end())) {
        return None;
    }
    if !rest.ends_with('\n') {
        rest.push('\n');
    }
    Some(rest + &block)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBEADM: &str = ".:53 {\n    errors\n    kubernetes cluster.local {\n    }\n    forward . /etc/resolv.conf\n}\n";

    #[test]
    fn the_block_is_added_once_and_follows_the_address() {
        let first = with(KUBEADM, ZONE, "10.96.0.9").unwrap();
        assert!(first.starts_with(KUBEADM), "{first}");
        assert!(first.contains("apps.local:53 {\n") && first.contains("forward . 10.96.0.9\n"));
        assert_eq!(with(&first, ZONE, "10.96.0.9"), None);
        let second = with(&first, ZONE, "10.96.0.10").unwrap();
        assert!(second.starts_with(KUBEADM), "{second}");
        assert_eq!(second.matches("apps.local:53").count(), 1, "{second}");
        assert!(second.contains("forward . 10.96.0.10\n"), "{second}");
    }

    #[test]
    fn the_users_own_block_is_kept() {
        let own = format!("{KUBEADM}apps.local:53 {{\n    forward . 1.2.3.4\n}}\n");
        assert_eq!(with(&own, ZONE, "10.96.0.9"), None);
    }

    #[test]
    fn a_missing_last_newline_does_not_join_two_blocks() {
        let text = with(KUBEADM.trim_end(), ZONE, "10.96.0.9").unwrap();
        assert!(
            text.contains("}\n# Names of ScaledApps\napps.local:53 {\n"),
            "{text}"
        );
    }
}
