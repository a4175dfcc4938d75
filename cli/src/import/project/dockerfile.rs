//! What a Dockerfile says about a container: its command, directory and port. Only the last stage
//! counts.

use std::collections::BTreeMap;

use super::super::text::words_of;

/// What the last stage of a Dockerfile says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// ENTRYPOINT and CMD together; empty if both are those of the base image.
    pub(super) command: Vec<String>,
    pub(super) directory: Option<String>,
    /// The first port of EXPOSE.
    pub(super) port: Option<i64>,
}

/// Reads a Dockerfile. What is not understood is ignored.
pub(super) fn read(text: &str) -> Dockerfile {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let mut found = Dockerfile::default();
    let (mut entrypoint, mut command) = (Vec::new(), Vec::new());
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    for line in joined.lines().map(str::trim) {
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match instruction.to_ascii_uppercase().as_str() {
            "FROM" => {
                found = Dockerfile::default();
                (entrypoint, command) = (Vec::new(), Vec::new());
            }
            "ENTRYPOINT" => entrypoint = words(rest),
            "CMD" => command = words(rest),
            "WORKDIR" => {
                let base = found.directory.take().unwrap_or_else(|| "/".to_owned());
                let directory = std::path::Path::new(&base).join(rest.trim_matches('"'));
                found.directory = Some(directory.to_string_lossy().into_owned());
            }
            "ENV" | "ARG" => {
                let (name, value) = rest.split_once(['=', ' ']).unwrap_or((rest, ""));
                let value = value.split(' ').next().unwrap_or_default();
                variables.insert(name.to_owned(), value.trim_matches('"').to_owned());
            }
            "EXPOSE" if found.port.is_none() => {
                let port = rest.split([' ', '/']).next().unwrap_or_default();
                let name = port.trim_start_matches('$').trim_matches(['{', '}']);
                let port = variables.get(name).map_or(port, String::as_str);
                found.port = port.parse().ok();
            }
            _ => {}
        }
    }
    found.command = entrypoint.into_iter().chain(command).collect();
    found
}

/// The words of a command: a JSON list, or a text for a shell.
fn words(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| words_of(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_counts() {
        let text = "\
# syntax=docker/dockerfile:1
FROM node:20 AS build
WORKDIR /src
EXPOSE 1
CMD [\"build\"]
FROM node:20-slim
ENV PORT=4000
WORKDIR /app
workdir web
EXPOSE ${PORT}/tcp 9000
ENTRYPOINT [\"docker-entrypoint.sh\"]
CMD [\"node\", \\
  \"server.js\"]
";
        let expected = Dockerfile {
            command: ["docker-entrypoint.sh", "node", "server.js"]
                .map(str::to_owned)
                .to_vec(),
            directory: Some("/app/web".to_owned()),
            port: Some(4000),
        };
        assert_eq!(read(text), expected);
        let shell = read("FROM scratch\nCMD exec gunicorn app:app --bind :$PORT\n");
        assert_eq!(
            shell.command,
            ["sh", "-c", "exec gunicorn app:app --bind :$PORT"]
        );
    }
}
