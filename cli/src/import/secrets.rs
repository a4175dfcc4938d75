//! Which variables hold secrets, by their names and the form of their values. Importers print no
//! such value.

/// Words in a variable's name that mean a secret.
const SECRET: [&str; 9] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
];
/// Last words of names that only describe a secret.
const ABOUT: [&str; 16] = [
    "FILE",
    "PATH",
    "DIR",
    "NAME",
    "URL",
    "URI",
    "ENDPOINT",
    "TTL",
    "EXPIRY",
    "EXPIRES",
    "TIMEOUT",
    "LENGTH",
    "LIFETIME",
    "ALGORITHM",
    "HEADER",
    "ISSUER",
];

/// Whether the value of a variable must not be printed. An empty value may be printed.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    !value.is_empty() && (is_secret_name(name) || has_userinfo(value))
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let words: Vec<&str> = name.split(['_', '-', '.']).collect();
    let last = words.last().copied().unwrap_or_default();
    if ABOUT.contains(&last) {
        return false;
    }
    let is_private_key = last == "KEY" && words.len() > 1 && !words.contains(&"PUBLIC");
    is_private_key || words.iter().any(|word| SECRET.contains(word))
}

/// Whether a value is a URL with a password, such as `postgres://user:pass@db/app`.
fn has_userinfo(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised_by_name_or_form() {
        for (name, value, secret) in [
            ("DB_PASSWORD", "x", true),
            ("SECRET_KEY_BASE", "x", true),
            ("STRIPE_API_KEY", "x", true),
            ("GITHUB_TOKEN", "x", true),
            ("DATABASE_URL", "postgres://u:p@db/app", true),
            ("CACHE", "a redis://:pw@cache:6379/0", true),
            ("DB_PASSWORD", "", false),
            ("DB_PASSWORD_FILE", "/run/secrets/p", false),
            ("JWT_PUBLIC_KEY", "x", false),
            ("DATABASE_URL", "postgres://db/app", false),
            ("TOKENIZERS_PARALLELISM", "false", false),
            ("KEY", "x", false),
            ("MAIL", "http://h/a@b:c", false),
        ] {
            assert_eq!(is_secret(name, value), secret, "{name}={value}");
        }
    }
}
