//! Maps what the pod of a service needs: its user, rights, volumes and files.

use super::super::draft::Draft;
use super::super::report::Scope;
use super::super::text::object_name;
use super::super::tree::Node;

/// The name of an object for a volume, secret or config of Compose.
pub(super) fn object_of(name: &str) -> String {
    object_name(name)
}

const SPEC: &str = "spec.podTemplate.spec";

/// Maps user, rights, host names, volumes, secrets and configs.
pub(super) fn convert(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    user(service, draft, scope);
    rights(service, draft, scope);
    hosts(service, draft, scope);
    volumes(service, draft, scope);
    files(service, draft, scope);
}

fn user(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    if let Some(user) = service.text(&["user"]) {
        let (user, group) = user.split_once(':').unwrap_or((&user, ""));
        let group_id = group.parse::<i64>();
        match user.parse::<i64>() {
            Ok(id) if group.is_empty() || group_id.is_ok() => {
                draft.set(&format!("{SPEC}.securityContext.runAsUser"), id);
                if let Ok(group) = group_id {
                    draft.set(&format!("{SPEC}.securityContext.runAsGroup"), group);
                }
                scope.kept("user", &format!("{SPEC}.securityContext"));
            }
            _ => scope.decide("user", "a pod names its user by number: set spec.podTemplate.spec.securityContext.runAsUser, or USER in the Dockerfile"),
        }
    }
    let groups = service.get("group_add").map_or(&[][..], Node::items);
    let numbers: Option<Vec<Node>> = groups
        .iter()
        .map(|group| group.whole().map(Node::from))
        .collect();
    match numbers {
        Some(numbers) if !numbers.is_empty() => {
            draft.set(&format!("{SPEC}.securityContext.supplementalGroups"), Node::List(numbers));
            scope.kept("group_add", &format!("{SPEC}.securityContext.supplementalGroups"));
        }
        None => scope.decide("group_add", "a pod names groups by number: set spec.podTemplate.spec.securityContext.supplementalGroups"),
        _ => {}
    }
}

fn rights(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    for (field, list) in [("cap_add", "add"), ("cap_drop", "drop")] {
        if let Some(names) = service.get(field) {
            let names = names.items().iter().filter_map(Node::scalar);
            let names = names.map(|name| name.trim_start_matches("CAP_").to_owned());
            draft.set_container(
                &["securityContext", "capabilities", list],
                Node::texts(names),
            );
            scope.kept(field, "spec.podTemplate");
        }
    }
    for (field, to) in [
        ("privileged", "privileged"),
        ("read_only", "readOnlyRootFilesystem"),
    ] {
        if let Some(value) = service.text(&[field]) {
            if value == "true" {
                draft.set_container(&["securityContext", to], Node::Bool(true));
            }
            scope.kept(field, "spec.podTemplate");
        }
    }
    let options = service.get("security_opt").map_or(&[][..], Node::items);
    for (index, option) in options.iter().enumerate() {
        let field = format!("security_opt[{index}]");
        let text = option.scalar().unwrap_or_default();
        if text.replace([':', '='], " ").trim_end_matches(" true") == "no-new-privileges" {
            draft.set_container(
                &["securityContext", "allowPrivilegeEscalation"],
                Node::Bool(false),
            );
            scope.kept(&field, "spec.podTemplate");
        } else {
            scope.lost(&field, "set securityContext in spec.podTemplate");
        }
    }
    for field in ["tty", "stdin_open"] {
        if service.get(field).is_some() {
            scope.changed(field, "", "workers have no terminal");
        }
    }
}

fn hosts(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let mut pairs: Vec<(String, String, String)> = Vec::new();
    if let Some(hosts) = service.get("extra_hosts") {
        for (name, address) in hosts.entries() {
            let address = address.scalar().unwrap_or_default();
            pairs.push((format!("extra_hosts.{name}"), name.clone(), address));
        }
        for (index, item) in hosts.items().iter().enumerate() {
            let text = item.scalar().unwrap_or_default();
            let at = text.find(['=', ':']).unwrap_or(text.len());
            let (name, address) = text.split_at(at);
            let address = address.trim_start_matches(['=', ':']);
            pairs.push((
                format!("extra_hosts[{index}]"),
                name.to_owned(),
                address.to_owned(),
            ));
        }
    }
    for (field, name, address) in pairs {
        if address
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok()
        {
            let alias = Node::map([
                ("ip", Node::text_of(address.trim_matches(['[', ']']))),
                ("hostnames", Node::texts([name])),
            ]);
            draft.push(&format!("{SPEC}.hostAliases"), alias);
            scope.kept(&field, &format!("{SPEC}.hostAliases"));
        } else {
            scope.lost(&field, "pods have no address of their host under a name: use a Service, or the node's address (valueFrom fieldRef status.hostIP)");
        }
    }
    if let Some(servers) = service.get("dns") {
        let servers = match servers {
            Node::List(items) => items.clone(),
            one => vec![one.clone()],
        };
        draft.set(
            &format!("{SPEC}.dnsConfig.nameservers"),
            Node::List(servers),
        );
        scope.changed(
            "dns",
            &format!("{SPEC}.dnsConfig.nameservers"),
            "they are asked after the cluster's own; with dnsPolicy: None only they are asked",
        );
    }
}

/// A volume of a service, from the short or the long notation.
struct Mount {
    kind: &'static str,
    source: String,
    target: String,
    is_read_only: bool,
}

fn mount(node: &Node) -> Option<Mount> {
    if let Some(target) = node.text(&["target"]) {
        let source = node.text(&["source"]).unwrap_or_default();
        let kind = match node.text(&["type"]).as_deref() {
            Some("bind") => "bind",
            Some("tmpfs") => "tmpfs",
            Some("volume") | None if source.is_empty() => "anonymous",
            Some("volume") | None => "volume",
            Some(_) => "other",
        };
        let is_read_only = node
            .text(&["read_only"])
            .is_some_and(|value| value == "true");
        return Some(Mount {
            kind,
            source,
            target,
            is_read_only,
        });
    }
    let text = node.scalar()?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return None,
    };
    let is_path = source.starts_with(['.', '/', '~']) || source.contains('/');
    Some(Mount {
        kind: if source.is_empty() {
            "anonymous"
        } else if is_path {
            "bind"
        } else {
            "volume"
        },
        source: source.to_owned(),
        target: target.to_owned(),
        is_read_only: mode.split(',').any(|word| word == "ro"),
    })
}

/// The volumes and mounts of the app's container so far.
#[derive(Default)]
struct Mounts {
    volumes: Vec<Node>,
    mounts: Vec<Node>,
}

impl Mounts {
    fn add(&mut self, name: &str, volume: (&str, Node), mount: &Node) {
        let name = format!("{}-{}", name, self.volumes.len());
        self.volumes
            .push(Node::map([("name", Node::text_of(name.clone())), volume]));
        let mut named = Node::map([("name", Node::Text(name))]);
        for (key, value) in mount.entries() {
            named.set(&[key], value.clone());
        }
        self.mounts.push(named);
    }

    fn put(self, draft: &mut Draft) {
        for volume in self.volumes {
            draft.push(&format!("{SPEC}.volumes"), volume);
        }
        if !self.mounts.is_empty() {
            let known = draft.container("volumeMounts").map_or(&[][..], Node::items);
            let all = known.iter().cloned().chain(self.mounts).collect();
            draft.set_container(&["volumeMounts"], Node::List(all));
        }
    }
}

fn volumes(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let mut all = Mounts::default();
    let list = service.get("volumes").map_or(&[][..], Node::items);
    for (index, node) in list.iter().enumerate() {
        let field = format!("volumes[{index}]");
        let Some(mount) = mount(node) else {
            scope.decide(&field, "is not understood: add it to spec.podTemplate");
            continue;
        };
        let mut at = Node::map([("mountPath", Node::text_of(mount.target))]);
        if mount.is_read_only {
            at.set(&["readOnly"], Node::Bool(true));
        }
        match mount.kind {
            "volume" => {
                let claim = object_of(&mount.source);
                let source = Node::map([("claimName", Node::text_of(claim.clone()))]);
                all.add(&claim, ("persistentVolumeClaim", source), &at);
                scope.decide(&field, format!("is the PersistentVolumeClaim {claim}, which must exist; pods on several nodes share one only with ReadWriteMany"));
            }
            "anonymous" => {
                all.add("scratch", ("emptyDir", Node::Map(Vec::new())), &at);
                scope.changed(&field, "spec.podTemplate", "is an emptyDir: each pod has its own, which is empty at its start");
            }
            "tmpfs" => {
                all.add("tmpfs", ("emptyDir", Node::map([("medium", "Memory".into())])), &at);
                scope.changed(&field, "spec.podTemplate", "is an emptyDir in memory");
            }
            "bind" if mount.source.ends_with("docker.sock") => {
                scope.lost(&field, "nodes of a cluster have no Docker socket for apps");
            }
            _ => scope.lost(&field, "a pod has no files of your machine: put them into the image, or into a ConfigMap that spec.podTemplate mounts"),
        }
    }
    let tmpfs = match service.get("tmpfs") {
        Some(Node::List(items)) => items.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    for node in tmpfs {
        let text = node.scalar().unwrap_or_default();
        let path = text.split(':').next().unwrap_or_default();
        let at = Node::map([("mountPath", Node::text_of(path))]);
        all.add(
            "tmpfs",
            ("emptyDir", Node::map([("medium", "Memory".into())])),
            &at,
        );
        scope.changed("tmpfs", "spec.podTemplate", "is an emptyDir in memory");
    }
    if service.get("volumes_from").is_some() {
        scope.lost("volumes_from", "pods share no volumes of other services");
    }
    all.put(draft);
}

fn files(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let mut all = Mounts::default();
    for (list, kind, key, directory) in [
        ("secrets", "secret", "secretName", "/run/secrets/"),
        ("configs", "configMap", "name", "/"),
    ] {
        let items = service.get(list).map_or(&[][..], Node::items);
        for (index, node) in items.iter().enumerate() {
            let field = format!("{list}[{index}]");
            let name = node.scalar().or_else(|| node.text(&["source"]));
            let name = name.unwrap_or_default();
            let target = node.text(&["target"]).unwrap_or_else(|| name.clone());
            let path = if target.starts_with('/') {
                target
            } else {
                format!("{directory}{target}")
            };
            let object = object_of(&name);
            let mount = Node::map([
                ("mountPath", Node::text_of(path)),
                ("subPath", Node::text_of(name.clone())),
                ("readOnly", Node::Bool(true)),
            ]);
            let source = Node::map([(key, Node::text_of(object.clone()))]);
            all.add(&object, (kind, source), &mount);
            let made = if kind == "secret" {
                "secret generic"
            } else {
                "configmap"
            };
            scope.changed(&field, "spec.podTemplate", format!("is a file of the {kind} {object}: kubectl create {made} {object} --from-file={name}=FILE"));
            for key in ["uid", "gid", "mode"] {
                if node.get(key).is_some() {
                    scope.lost(
                        &format!("{field}.{key}"),
                        "set defaultMode of the volume, or fsGroup, in spec.podTemplate",
                    );
                }
            }
        }
    }
    all.put(draft);
}
