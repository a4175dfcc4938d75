//! A `ScaledApp` while it is made: fields by their paths, and comments beside assumed values. It
//! decides the order of the fields, and says what the API server would refuse.

use scaledapp_crds::{API_VERSION, KIND, ScaledApp};
use scaledapp_plan::validate;

use super::report::Scope;
use super::secrets::is_secret;
use super::text::{object_name, unexpanded};
use super::tree::Node;
use super::write::{Comments, yaml};

/// A document of the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    pub(super) node: Node,
    pub(super) comments: Comments,
}

impl Document {
    /// The document as text.
    pub(super) fn text(&self) -> String {
        yaml(&self.node, &self.comments)
    }
}

/// The word that stands for a command that nobody has given. No such program exists, so an app
/// with it never becomes ready, and its message names the word.
pub(super) const NO_COMMAND: &str = "set-spec-command";

/// A `ScaledApp` while it is made.
#[derive(Debug)]
pub(super) struct Draft {
    /// The object's name.
    pub(super) name: String,
    object: Node,
    comments: Comments,
    /// Names of variables that were replaced by references to the Secret of [`Draft::secret`].
    pub(super) secrets: Vec<String>,
}

impl Draft {
    /// An app of this name, which is changed if no object can have it.
    pub(super) fn new(wanted: &str) -> Self {
        let name = object_name(wanted);
        let object = Node::map([
            ("apiVersion", Node::text_of(API_VERSION)),
            ("kind", Node::text_of(KIND)),
            (
                "metadata",
                Node::map([("name", Node::text_of(name.clone()))]),
            ),
            ("spec", Node::Map(Vec::new())),
        ]);
        let mut draft = Self {
            name,
            object,
            comments: Comments::new(),
            secrets: Vec::new(),
        };
        if draft.name != wanted {
            draft.comment(
                "metadata.name",
                format!("{wanted} cannot be the name of an object."),
            );
        }
        draft
    }

    /// Sets a field; the path has no lists.
    pub(super) fn set(&mut self, path: &str, value: impl Into<Node>) {
        let keys: Vec<&str> = path.split('.').collect();
        self.object.set(&keys, value.into());
    }

    /// Sets a field, with the reason for its value.
    pub(super) fn assume(&mut self, path: &str, value: impl Into<Node>, why: impl Into<String>) {
        self.set(path, value);
        self.comment(path, why);
    }

    /// Adds a member to a list.
    pub(super) fn push(&mut self, path: &str, item: Node) {
        let keys: Vec<&str> = path.split('.').collect();
        self.object.push(&keys, item);
    }

    /// A comment above a field.
    pub(super) fn comment(&mut self, path: &str, words: impl Into<String>) {
        self.comments
            .entry(path.to_owned())
            .or_default()
            .push(words.into());
    }

    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        let keys: Vec<&str> = path.split('.').collect();
        self.object.at(&keys)
    }

    /// Sets a field of the app's container in the pod template.
    pub(super) fn set_container(&mut self, keys: &[&str], value: Node) {
        const LIST: [&str; 4] = ["spec", "podTemplate", "spec", "containers"];
        let mut containers = self
            .object
            .at(&LIST)
            .map_or(Vec::new(), |list| list.items().to_vec());
        let is_app = |one: &Node| one.text(&["name"]).as_deref() == Some("app");
        if !containers.first().is_some_and(is_app) {
            containers.insert(0, Node::map([("name", Node::text_of("app"))]));
        }
        if let Some(app) = containers.first_mut() {
            app.set(keys, value);
        }
        self.object.set(&LIST, Node::List(containers));
    }

    /// A field of the app's container in the pod template.
    pub(super) fn container(&self, key: &str) -> Option<&Node> {
        let containers = self.get("spec.podTemplate.spec.containers")?;
        containers.items().first()?.get(key)
    }

    /// The Secret with the values of variables that are not printed.
    pub(super) fn secret(&self) -> String {
        format!("{}-secrets", self.name)
    }

    /// Adds a variable that `field` of the source sets. `is_literal` says that the source expands
    /// no `$(NAME)`. The value of a secret is replaced by a reference to a Secret.
    pub(super) fn variable(
        &mut self,
        scope: &mut Scope<'_>,
        (field, name): (&str, &str),
        value: &str,
        is_literal: bool,
    ) {
        if let Some(why) = own_variable(name) {
            scope.changed(field, "", why);
            return;
        }
        if is_secret(name, value) {
            self.secret_variable(scope, (field, name));
            return;
        }
        let value = if is_literal {
            unexpanded(value)
        } else {
            value.to_owned()
        };
        self.put_variable(name, "value", Node::Text(value));
        scope.kept(field, "spec.env");
    }

    /// Adds a variable whose value is a secret: a reference to a Secret.
    pub(super) fn secret_variable(&mut self, scope: &mut Scope<'_>, (field, name): (&str, &str)) {
        let reference = Node::map([
            ("name", Node::text_of(self.secret())),
            ("key", Node::text_of(name)),
        ]);
        let from = Node::map([("secretKeyRef", reference)]);
        self.put_variable(name, "valueFrom", from);
        self.secrets.push(name.to_owned());
        let why = format!(
            "looks like a secret, so no value is printed: it is read from the Secret {}",
            self.secret()
        );
        scope.changed(field, "spec.env", why);
    }

    /// Adds a variable; an earlier one of the same name is replaced.
    pub(super) fn put_variable(&mut self, name: &str, key: &str, value: Node) {
        let env = self.get("spec.env").map_or(&[][..], Node::items);
        let others = env
            .iter()
            .filter(|variable| variable.text(&["name"]).as_deref() != Some(name));
        let mut env: Vec<Node> = others.cloned().collect();
        env.push(Node::map([("name", Node::text_of(name)), (key, value)]));
        self.set("spec.env", Node::List(env));
    }

    /// The document, with its fields in the order of the CRD. What the API server would refuse is
    /// added to the report.
    pub(super) fn finish(mut self, scope: &mut Scope<'_>) -> Document {
        if !self.secrets.is_empty() {
            self.comment(
                "spec.env",
                format!(
                    "Values of secrets are not printed: kubectl create secret generic {} {}",
                    self.secret(),
                    self.secrets
                        .iter()
                        .map(|name| format!("--from-literal={name}=…"))
                        .collect::<Vec<_>>()
                        .join(" ")
                ),
            );
        }
        let json = serde_json::to_string(&self.object).unwrap_or_default();
        let node = match serde_json::from_str::<ScaledApp>(&json) {
            Ok(app) => {
                for violation in validate(&app).err().into_iter().flatten() {
                    if !violation.message.starts_with("needs a cluster") {
                        scope.decide(&violation.path, format!("made {}", violation.message));
                    }
                }
                // `to_string` writes the fields in the order of the types.
                let ordered = serde_json::to_string(&app).unwrap_or_default();
                serde_json::from_str(&ordered).unwrap_or(self.object)
            }
            Err(error) => {
                scope.decide("", format!("the object that was made is invalid: {error}"));
                self.object
            }
        };
        Document {
            node: names_first(node),
            comments: self.comments,
        }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Why a variable is left out: the supervisor sets it.
pub(super) fn own_variable(name: &str) -> Option<&'static str> {
    match name {
        "WEB_CONCURRENCY" => {
            Some("the supervisor sets it to 1, because it starts the workers itself")
        }
        "NODE_APP_INSTANCE" => Some("the supervisor sets it to the worker's number"),
        name if name.starts_with("SCALEDAPP_") => {
            Some("the supervisor sets variables with this prefix")
        }
        _ => None,
    }
}

/// Puts `name` first in every mapping of a list, as people write it.
pub(super) fn names_first(node: Node) -> Node {
    match node {
        Node::List(items) => Node::List(
            items
                .into_iter()
                .map(|mut item| {
                    if let Some(name) = item.remove("name") {
                        let mut entries = vec![("name".to_owned(), name)];
                        entries.extend(item.entries().iter().cloned());
                        item = Node::Map(entries);
                    }
                    names_first(item)
                })
                .collect(),
        ),
        Node::Map(entries) => Node::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key, names_first(value)))
                .collect(),
        ),
        other => other,
    }
}
