//! The page, as one document without outside resources, and the headers that bind it to exactly its
//! own script and style.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: [&str; 4] = [
    include_str!("page/base.js"),
    include_str!("page/draw.js"),
    include_str!("page/lists.js"),
    include_str!("page/main.js"),
];

/// The page and its policy.
#[derive(Debug)]
pub(crate) struct Page {
    /// The document.
    pub(crate) html: String,
    /// The value of `Content-Security-Policy`.
    pub(crate) policy: String,
}

/// The one page that there is.
pub(crate) static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let script = format!("\n\"use strict\";\n{}", SCRIPT.concat());
    let style = format!("\n{STYLE}");
    let html = DOCUMENT
        .replace("/* style */", &style)
        .replace("/* script */", &script);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(&script),
        hash(&style),
    );
    Page { html, policy }
});

/// The hash of an inline script or style (CSP3 section 2.3.1).
fn hash(text: &str) -> String {
    format!(
        "sha256-{}",
        STANDARD.encode(Sha256::digest(text.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_for_nothing_from_outside() {
        let html = &PAGE.html;
        assert!(html.len() <= 200 << 10, "{} bytes", html.len());
        assert_eq!(html.matches("<script>").count(), 1);
        assert_eq!(html.matches("<style>").count(), 1);
        for banned in [
            " src=",
            "@import",
            "url(",
            "<link rel=\"stylesheet",
            "https://",
        ] {
            assert!(!html.contains(banned), "{banned}");
        }
        // Texts of apps are hostile, and styles in attributes are forbidden by the policy.
        for banned in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            " style=",
            "'style'",
            "onclick=",
        ] {
            assert!(!html.contains(banned), "{banned}");
        }
    }

    #[test]
    fn the_policy_names_the_script_and_the_style_of_the_page() {
        assert_eq!(
            hash(""),
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
        let between = |from: &str, to: &str| {
            let (_, rest) = PAGE.html.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_owned()
        };
        let script = hash(&between("<script>", "</script>"));
        let style = hash(&between("<style>", "</style>"));
        assert!(PAGE.policy.contains(&format!("script-src '{script}'")));
        assert!(PAGE.policy.contains(&format!("style-src '{style}'")));
        assert!(PAGE.policy.starts_with("default-src 'none'; "));
    }
}
