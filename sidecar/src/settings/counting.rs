//! `--increment-env`: a variable that is increased by the worker's slot number. Its first
//! value is read once, so that a slot keeps its value.

use anyhow::{Context, bail};

/// A variable that differs from slot to slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    /// Its name.
    pub name: String,
    /// Its value in slot 0.
    pub first: i64,
}

impl Counting {
    /// Reads the first value of `name`; `get` reads the environment. The first value is 0 if the
    /// variable is not set, as with PM2's `increment_var`.
    ///
    /// # Errors
    /// `name` cannot be a variable of the app's own, or its value is not a whole number.
    pub(super) fn read(
        name: String,
        port: Option<u16>,
        get: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        if name.is_empty() || name.contains(['=', '\0']) {
            bail!(
                "--increment-env {name:?} is not the name of a variable: give a name such as DEBUG_PORT"
            );
        }
        if name.starts_with("SCALEDAPP_") || name.starts_with("NODE_CHANNEL_") {
            bail!("--increment-env {name} is set by the supervisor: give another variable");
        }
        if name == "PORT" && port.is_some() {
            bail!(
                "--increment-env PORT: all workers share one port, so leave the flag out; an app \
                 whose workers each have a port of their own runs with --port none"
            );
        }
        let first = match get(&name) {
            None => 0,
            Some(text) => text.trim().parse().ok().with_context(|| {
                format!(
                    "--increment-env {name}: {text:?} is not a whole number; set \
                     {name} to a whole number, such as {name}=9229, or unset {name} to start at 0"
                )
            })?,
        };
        Ok(Self { name, first })
    }

    /// The value in a slot.
    pub(crate) fn value(&self, slot: u32) -> String {
        self.first.saturating_add(i64::from(slot)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_from_the_value_in_the_environment() {
        for (value, in_slot_2) in [(None, "2"), (Some("9229"), "9231"), (Some("-1"), "1")] {
            let get = |_: &str| value.map(str::to_owned);
            let counting = Counting::read("DEBUG_PORT".to_owned(), Some(3000), get).unwrap();
            assert_eq!(counting.value(2), in_slot_2);
        }
    }

    #[test]
    fn a_variable_that_cannot_be_counted_up_is_refused_with_the_cure() {
        for (name, port, cure) in [
            ("", None, "such as DEBUG_PORT"),
            ("SCALEDAPP_SLOT", None, "another variable"),
            ("PORT", Some(3000), "--port none"),
            ("WORD", None, "WORD=9229"),
        ] {
            let get = |_: &str| Some("word".to_owned());
            let error = Counting::read(name.to_owned(), port, get).unwrap_err();
            assert!(error.to_string().contains(cure), "{name}: {error}");
        }
        let own_ports = Counting::read("PORT".to_owned(), None, |_| Some("4000".to_owned()));
        assert_eq!(own_ports.unwrap().value(1), "4001");
    }
}
