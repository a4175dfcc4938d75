//! The RBAC rights that a request needs, and the rights that a list of rules grants, so that tests
//! can compare the two.

use std::collections::BTreeSet;

use serde_json::Value;

/// Verb, API group, resource with its subresource.
pub type Right = (String, String, String);

/// The resource or object that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    group: String,
    resource: String,
    /// The object's name; `None` if the request is for all objects of the resource.
    pub name: Option<String>,
}

impl Asked {
    /// Parses a path such as `/apis/apps/v1/namespaces/default/deployments/hello`.
    pub fn of(path: &str) -> Self {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let is_core = parts[0] == "api";
        let group = if is_core { "" } else { parts[1] };
        parts.drain(..if is_core { 2 } else { 3 });
        if parts[0] == "namespaces" && parts.len() > 2 {
            parts.drain(..2);
        }
        Self {
            group: group.to_owned(),
            resource: match parts.get(2) {
                Some(subresource) => format!("{}/{subresource}", parts[0]),
                None => parts[0].to_owned(),
            },
            name: parts.get(1).map(|&name| name.to_owned()),
        }
    }

    /// Whether the request is for objects of a kind.
    pub fn is_of(&self, kind: &str) -> bool {
        self.resource == format!("{}s", kind.to_ascii_lowercase())
    }

    /// The rights that a request with this method and query needs. `exists` says whether the
    /// object exists already.
    pub fn needs(&self, method: &str, query: &str, exists: bool) -> Vec<Right> {
        let applies = query.contains("fieldManager=") && query.contains("force=true");
        let verbs: &[&str] = match method {
            "GET" if is_watch(query) => &["watch"],
            "GET" if self.name.is_none() => &["list"],
            "GET" => &["get"],
            "POST" => &["create"],
            "PUT" => &["update"],
            // Applying an object that does not exist creates it.
            "PATCH" if applies && !exists && !self.resource.contains('/') => &["patch", "create"],
            "PATCH" => &["patch"],
            "DELETE" => &["delete"],
            _ => &["?"],
        };
        let right = |verb: &&str| {
            let (group, resource) = (self.group.clone(), self.resource.clone());
            ((*verb).to_owned(), group, resource)
        };
        verbs.iter().map(right).collect()
    }
}

/// Whether a request with this query is a watch.
pub fn is_watch(query: &str) -> bool {
    let mut parts = query.split('&');
    parts.any(|part| matches!(part, "watch=true" | "watch=1"))
}

/// All rights that a list of rules grants; with a name, only those that apply to that object.
pub fn granted(rules: &Value, name: Option<&str>) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().map(Vec::as_slice).unwrap_or_default();
        texts
            .iter()
            .filter_map(Value::as_str)
            .map(ToOwned::to_owned)
            .collect()
    };
    let mut all = BTreeSet::new();
    for rule in rules.as_array().map(Vec::as_slice).unwrap_or_default() {
        let names = texts(&rule["resourceNames"]);
        let is_other = |name| !names.is_empty() && !names.iter().any(|it| it == name);
        if name.is_some_and(is_other) {
            continue;
        }
        for verb in texts(&rule["verbs"]) {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    all.insert((verb.clone(), group.clone(), resource));
                }
            }
        }
    }
    all
}
