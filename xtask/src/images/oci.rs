//! How an image looks: an OCI image layout with one index, which names an image for each platform.
//!
//! Each image has one layer with one static program, no shell and no user database; so the user is
//! a number. Times are 0, and files are sorted, so that the same programs give the same digests
//! (<https://github.com/opencontainers/image-spec>, v1.1).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::component::{Arch, Component};
use super::program;
use crate::cargo::output_of;
use crate::kind::archive;
use crate::kind::run::Run;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The user nobody, because Pod Security `restricted` demands a user that is not root.
const USER: &str = "65534:65534";
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// How long packing and hashing a program may take on a busy machine.
const PACK_TIMEOUT: Duration = Duration::from_mins(5);

/// What tools show of an image, as labels and as annotations.
pub(super) type Labels = BTreeMap<String, String>;

/// What an image was made from; what is not known is empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) version: &'a str,
    /// The commit.
    pub(super) revision: &'a str,
    /// The address of the sources.
    pub(super) source: &'a str,
}

/// The labels of a component's image.
pub(super) fn labels(component: Component, origin: &Origin<'_>) -> Labels {
    let mut labels = Labels::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            let name = format!("org.opencontainers.image.{name}");
            labels.insert(name, value.to_owned());
        }
    };
    put("title", component.title);
    put("description", component.description);
    put("version", origin.version);
    put("revision", origin.revision);
    put("licenses", env!("CARGO_PKG_LICENSE"));
    put("source", origin.source);
    put("base.name", "scratch");
    labels
}

/// The commit of the sources; empty without git.
pub(super) fn revision() -> String {
    output_of(&OsString::from("git"), &["rev-parse", "HEAD"]).unwrap_or_default()
}

/// A blob's descriptor.
#[derive(Debug, Clone)]
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn describe(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

/// Writes the layout of a component's image to the directory `layout`, in place of what is there.
/// `programs` are the directories with the programs of each platform. Returns the digest of the
/// image, which is that of its index.
///
/// # Errors
/// A program is missing, or the layout cannot be written.
pub(super) fn write(
    layout: &Path,
    component: Component,
    programs: &[(Arch, PathBuf)],
    labels: &Labels,
) -> anyhow::Result<String> {
    if layout.exists() {
        fs::remove_dir_all(layout)?;
    }
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let mut manifests = Vec::new();
    for (arch, directory) in programs {
        let name = component.program();
        let source = directory.join(&name);
        program::check(&source, *arch)?;
        let at = format!("/usr/local/bin/{name}");
        let (layer, diff) = layer(layout, &source, &at)?;
        let config = put(layout, &configuration(*arch, &at, &diff, labels))?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.describe(CONFIG),
            "layers": [layer.describe(LAYER)],
            "annotations": labels,
        });
        let mut described = put(layout, &manifest)?.describe(MANIFEST);
        described["platform"] = json!({"architecture": arch.name(), "os": "linux"});
        manifests.push(described);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": manifests,
        "annotations": labels,
    });
    // The index of the image is a blob, and the index of the layout names it: tools push what the
    // latter names.
    let index = put(layout, &index)?;
    let outer =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index.describe(INDEX)]});
    fs::write(layout.join("index.json"), outer.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(index.digest)
}

/// The layer with one program, and the digest of its content before it is compressed.
fn layer(layout: &Path, source: &Path, at: &str) -> anyhow::Result<(Blob, String)> {
    let work = tempfile::tempdir_in(layout)?;
    let layer = work.path().join("layer.tar");
    archive::layer(work.path(), &layer, None, &[(source, at)])?;
    let layer_text = layer.to_string_lossy().into_owned();
    let diff = sha256(&layer)?;
    // Without a name and a time, the same content gives the same bytes.
    Run::new("gzip", &["-n", "-9", &layer_text])
        .within(PACK_TIMEOUT)
        .done()?;
    let packed = layer.with_extension("tar.gz");
    let blob = Blob {
        digest: sha256(&packed)?,
        size: fs::metadata(&packed)?.len(),
    };
    fs::rename(&packed, place(layout, &blob.digest)?)?;
    Ok((blob, diff))
}

/// Stores JSON as a blob.
fn put(layout: &Path, value: &Value) -> anyhow::Result<Blob> {
    let file = tempfile::NamedTempFile::new_in(layout)?;
    let text = value.to_string();
    fs::write(file.path(), &text)?;
    let blob = Blob {
        digest: sha256(file.path())?,
        size: text.len() as u64,
    };
    fs::write(place(layout, &blob.digest)?, text)?;
    Ok(blob)
}

fn place(layout: &Path, digest: &str) -> anyhow::Result<PathBuf> {
    let hexadecimal = digest.strip_prefix("sha256:").context("a digest")?;
    Ok(layout.join("blobs/sha256").join(hexadecimal))
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let text = Run::new("sha256sum", &[file]).within(PACK_TIMEOUT).text()?;
    let digest = text.split_whitespace().next().unwrap_or_default();
    ensure!(digest.len() == 64, "sha256sum says {text:?}");
    Ok(format!("sha256:{digest}"))
}

fn configuration(arch: Arch, program: &str, diff: &str, labels: &Labels) -> Value {
    json!({
        "architecture": arch.name(),
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Entrypoint": [program],
            "User": USER,
            "WorkingDir": "/",
            "Env": ["PATH=/usr/local/bin"],
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created": EPOCH, "created_by": "cargo xtask images"}],
    })
}

#[cfg(test)]
mod tests {
    use super::super::component::COMPONENTS;
    use super::*;

    fn read(layout: &Path, digest: &Value) -> Value {
        let place = place(layout, digest.as_str().unwrap()).unwrap();
        serde_json::from_slice(&fs::read(place).unwrap()).unwrap()
    }

    #[test]
    fn the_same_programs_give_the_same_digest_and_an_image_for_each_platform() {
        let directory = tempfile::tempdir().unwrap();
        let programs = [Arch::Amd64, Arch::Arm64].map(|arch| {
            let at = directory.path().join(arch.name());
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("scaledapp-dns"), program::stand_in(arch, "")).unwrap();
            (arch, at)
        });
        let dns = COMPONENTS[3];
        let origin = Origin {
            version: "1.2.3",
            revision: "",
            source: "",
        };
        let labels = labels(dns, &origin);
        let layouts = ["one", "two"].map(|name| directory.path().join(name));
        let digests = layouts
            .each_ref()
            .map(|layout| write(layout, dns, &programs, &labels).unwrap());
        assert_eq!(digests[0], digests[1]);
        let layout = &layouts[0];
        let outer: Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        assert_eq!(outer["manifests"][0]["digest"], digests[0].as_str());
        let index = read(layout, &outer["manifests"][0]["digest"]);
        assert_eq!(index["manifests"][1]["platform"]["architecture"], "arm64");
        let manifest = read(layout, &index["manifests"][1]["digest"]);
        let config = read(layout, &manifest["config"]["digest"]);
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["config"]["User"], USER);
        let version = "org.opencontainers.image.version";
        assert_eq!(config["config"]["Labels"][version], "1.2.3");
        let layer = place(layout, manifest["layers"][0]["digest"].as_str().unwrap()).unwrap();
        let size = fs::metadata(layer).unwrap().len();
        assert_eq!(manifest["layers"][0]["size"], size);
    }
}
