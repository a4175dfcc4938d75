//! Maps what a service of Compose runs: image, command, directory and environment.

use super::super::draft::{Draft, NO_COMMAND};
use super::super::report::Scope;
use super::super::secrets::is_secret;
use super::super::text::{split, unexpanded, words_of};
use super::super::tree::Node;
use super::given::Given;

/// Maps image, entrypoint, command, working directory and variables.
pub(super) fn convert(service: &Node, given: &Given<'_>, draft: &mut Draft, scope: &mut Scope<'_>) {
    image(service, draft, scope);
    command(service, given.command, draft, scope);
    if let Some(directory) = service.text(&["working_dir"]) {
        draft.set("spec.workingDir", directory);
        scope.kept("working_dir", "spec.workingDir");
    }
    environment(service, given, draft, scope);
    env_files(service, draft, scope);
}

fn image(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let image = service.text(&["image"]).filter(|image| !image.is_empty());
    let is_built = service.get("build").is_some();
    let name = image
        .clone()
        .unwrap_or_else(|| format!("{}:latest", draft.name));
    if image.is_some() {
        draft.set("spec.image", name.clone());
        scope.kept("image", "spec.image");
    } else {
        let why = "Assumed: the file names no image. Push the image under this name, or change it. `scaledapp local` does not pull it.";
        draft.assume("spec.image", name.clone(), why);
    }
    if is_built {
        scope.decide("build", format!("nothing is built here: docker compose build, and push the image under the name {name}, which the nodes can pull"));
    }
}

fn words(node: &Node) -> Vec<String> {
    match node {
        Node::List(items) => items.iter().filter_map(Node::scalar).collect(),
        other => split(&other.scalar().unwrap_or_default()),
    }
}

fn command(service: &Node, given: Option<&str>, draft: &mut Draft, scope: &mut Scope<'_>) {
    let texts = |words: &[String]| Node::texts(words.iter().map(|word| unexpanded(word)));
    let of = |key: &str| {
        service
            .get(key)
            .map(words)
            .filter(|words| !words.is_empty())
    };
    let (entrypoint, command) = (of("entrypoint"), of("command"));
    match (entrypoint, command, given) {
        (Some(entrypoint), command, _) => {
            draft.set("spec.command", texts(&entrypoint));
            scope.kept("entrypoint", "spec.command");
            if let Some(command) = command {
                draft.set("spec.args", texts(&command));
                scope.kept("command", "spec.args");
            }
        }
        (None, Some(command), _) => {
            draft.set("spec.command", texts(&command));
            scope.changed(
                "command",
                "spec.command",
                "the supervisor runs it without the image's entrypoint",
            );
        }
        (None, None, Some(given)) => {
            draft.set("spec.command", Node::texts(words_of(given)));
            scope.changed("command", "spec.command", "is that of --command");
        }
        (None, None, None) => {
            draft.assume("spec.command", Node::texts([NO_COMMAND]), "The file names no command, so the image's own is used, which is not known here: write what one worker runs.");
            scope.decide("command", "the file leaves it to the image, but the supervisor starts the app itself: give --command, or set spec.command to the ENTRYPOINT and CMD of the Dockerfile");
        }
    }
    for key in ["entrypoint", "command"] {
        if service.get(key).is_some() && !scope.is_named(key) {
            scope.changed(key, "", "is empty");
        }
    }
}

fn environment(service: &Node, given: &Given<'_>, draft: &mut Draft, scope: &mut Scope<'_>) {
    let Some(environment) = service.get("environment") else {
        return;
    };
    // The field, the name, and the value if there is one.
    let mut all: Vec<(String, String, Option<String>)> = Vec::new();
    for (name, value) in environment.entries() {
        let value = (*value != Node::Null).then(|| value.scalar().unwrap_or_default());
        all.push((format!("environment.{name}"), name.clone(), value));
    }
    for (index, item) in environment.items().iter().enumerate() {
        let text = item.scalar().unwrap_or_default();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text, None),
        };
        all.push((format!("environment[{index}]"), name, value));
    }
    let port = super::ports::port(service);
    for (field, name, value) in all {
        let by_file = given
            .variables
            .iter()
            .rev()
            .find(|(known, _)| *known == name);
        let value = value.or_else(|| by_file.map(|(_, value)| value.clone()));
        let unset = given.unset.iter().find(|(path, _)| *path == field);
        match (value, unset) {
            (None, _) if is_secret(&name, "?") => {
                draft.secret_variable(scope, (&field, &name));
            }
            (None, _) => scope.decide(&field, format!("{name} has no value in the file: give it with --env-file, or add it to spec.env")),
            (Some(value), _) if name == "PORT" => {
                if value.parse().ok() == port {
                    scope.kept(&field, "spec.port");
                } else {
                    scope.decide(&field, "PORT is set from spec.port: check that the app listens there");
                }
            }
            (Some(_), Some(_)) if is_secret(&name, "?") => {
                draft.secret_variable(scope, (&field, &name));
            }
            (Some(value), Some((_, variable))) => {
                draft.put_variable(&name, "value", Node::Text(unexpanded(&value)));
                scope.decide(&field, is_unset(variable));
            }
            (Some(value), None) => draft.variable(scope, (&field, &name), &value, true),
        }
    }
}

/// What to say about a variable without a value.
pub(super) fn is_unset(variable: &str) -> String {
    format!(
        "the variable {variable} is not set and has no default, so it is empty: give it with --env-file, or write the value"
    )
}

/// Files of variables become a Secret, whose values nobody needs to read here.
fn env_files(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let Some(files) = service.get("env_file") else {
        return;
    };
    let list = match files {
        Node::List(items) => items.clone(),
        one => vec![one.clone()],
    };
    for (index, file) in list.iter().enumerate() {
        let path = file.scalar().or_else(|| file.text(&["path"]));
        let path = path.unwrap_or_default();
        let secret = match index {
            0 => format!("{}-env", draft.name),
            index => format!("{}-env-{}", draft.name, index + 1),
        };
        let mut reference = Node::map([("name", Node::text_of(secret.clone()))]);
        if file
            .text(&["required"])
            .is_some_and(|required| required == "false")
        {
            reference.set(&["optional"], Node::Bool(true));
        }
        draft.push("spec.envFrom", Node::map([("secretRef", reference)]));
        let how = format!("kubectl create secret generic {secret} --from-env-file={path}");
        draft.comment("spec.envFrom", how.clone());
        let field = match files {
            Node::List(_) => format!("env_file[{index}]"),
            _ => "env_file".to_owned(),
        };
        scope.decide(&field, format!("the app reads the Secret {secret} in place of the file: {how}; on one machine, write the variables into spec.env"));
    }
}
