//! Real handshakes in memory: which certificate, version, protocol and ticket each client
//! gets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{Acceptor, ServerConfig, ServerConnection};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use scaledapp_tls::{
    Alpn, Certificate, CertificateError, ClientCertificates, Files, Pair, Settings, SettingsError,
    Tickets, Version, server_config,
};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// PEM of a chain and of its key.
fn issue(authority: &Issuer, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn certificate(authority: &Issuer, names: &[&str]) -> Certificate {
    let (chain, key) = issue(authority, names);
    Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
}

fn tickets() -> Arc<Tickets> {
    Arc::new(Tickets::new(|| 1_000_000))
}

fn client(authority: &Issuer, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

/// Both ends after a handshake and the messages that followed it.
struct Met {
    server: ServerConnection,
    client: ClientConnection,
}

impl Met {
    /// The first certificate that the server has presented.
    fn shown(&self) -> CertificateDer<'static> {
        self.client.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }
}

fn meet(
    config: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Met, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    let mut acceptor = Acceptor::default();
    // The hello is read byte by byte: one with post-quantum key shares arrives in two
    // segments.
    for byte in &bytes {
        assert!(acceptor.accept().map_err(|(error, _)| error)?.is_none());
        acceptor.read_tls(&mut Cursor::new([*byte])).unwrap();
    }
    let accepted = acceptor.accept().map_err(|(error, _)| error)?.unwrap();
    let mut server = accepted
        .into_connection(Arc::clone(config))
        .map_err(|(error, _)| error)?;
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut read = Cursor::new(bytes);
        while read.position() < read.get_ref().len() as u64 {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut read = Cursor::new(bytes);
        while read.position() < read.get_ref().len() as u64 {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets()?;
        }
    }
    Ok(Met { server, client })
}

#[test]
fn the_name_decides_about_the_certificate() {
    let authority = authority();
    let all = [
        certificate(&authority, &["first.test"]),
        certificate(&authority, &["*.apps.test", "apps.test"]),
        certificate(&authority, &["own.apps.test"]),
    ];
    let choice = server_config(&all, &Settings::default(), &tickets()).unwrap();
    let client = Arc::new(client(&authority, &[&TLS13]));
    let mut shown = Vec::new();
    for name in [
        "first.test",
        "a.apps.test",
        "b.apps.test",
        "apps.test",
        "own.apps.test",
    ] {
        shown.push(meet(&choice, &client, name).unwrap().shown());
    }
    assert_eq!(shown[1], shown[2]);
    assert_eq!(shown[1], shown[3]);
    assert_ne!(shown[0], shown[1]);
    assert_ne!(shown[4], shown[1]);
    // A wildcard is for one label, and the first certificate is not valid for an unknown
    // name.
    for name in ["a.b.apps.test", "nobody.test"] {
        assert!(meet(&choice, &client, name).is_err(), "{name}");
    }
}

#[test]
fn versions_and_protocols_are_what_the_settings_say() {
    let authority = authority();
    let all = [certificate(&authority, &["a.test"])];
    let both = server_config(&all, &Settings::default(), &tickets()).unwrap();
    let new = Settings {
        min_version: Version::Tls13,
        alpn: Alpn::Http2,
        clients: None,
    };
    let new = server_config(&all, &new, &tickets()).unwrap();
    let mut old_client = client(&authority, &[&TLS12]);
    old_client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut new_client = client(&authority, &[&TLS13]);
    new_client
        .alpn_protocols
        .clone_from(&old_client.alpn_protocols);
    let (old_client, new_client) = (Arc::new(old_client), Arc::new(new_client));
    let met = meet(&both, &old_client, "a.test").unwrap();
    assert_eq!(
        met.server.protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );
    assert_eq!(met.server.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(meet(&new, &old_client, "a.test").is_err());
    let met = meet(&new, &new_client, "a.test").unwrap();
    assert_eq!(met.server.alpn_protocol(), Some(&b"h2"[..]));
    let group = met.server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn sessions_are_resumed_by_every_balancer_with_tls13_and_by_none_without() {
    let authority = authority();
    let all = [certificate(&authority, &["a.test"])];
    let balancers = [0, 1].map(|_| server_config(&all, &Settings::default(), &tickets()).unwrap());
    let now = Arc::new(client(&authority, &[&TLS13]));
    let first = meet(&balancers[0], &now, "a.test").unwrap();
    assert_eq!(first.server.handshake_kind(), Some(HandshakeKind::Full));
    let second = meet(&balancers[1], &now, "a.test").unwrap();
    assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Resumed));
    let then = Arc::new(client(&authority, &[&TLS12]));
    for _ in 0..2 {
        let met = meet(&balancers[0], &then, "a.test").unwrap();
        assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_session_outlives_its_certificate() {
    let authority = authority();
    let tickets = tickets();
    let settings = Settings::default();
    let before = server_config(&[certificate(&authority, &["a.test"])], &settings, &tickets);
    let client = Arc::new(client(&authority, &[&TLS13]));
    meet(&before.unwrap(), &client, "a.test").unwrap();
    let after = server_config(&[certificate(&authority, &["a.test"])], &settings, &tickets);
    let met = meet(&after.unwrap(), &client, "a.test").unwrap();
    assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn clients_show_a_certificate_of_their_authority_each_time() {
    let (ours, theirs) = (authority(), authority());
    let all = [certificate(&ours, &["a.test"])];
    let anonymous = Arc::new(client(&ours, &[&TLS13]));
    let with = |issuer: &Issuer| {
        let (chain, key) = issue(issuer, &["me"]);
        let chain = rustls_pki_types::pem::PemObject::from_pem_slice(chain.as_bytes()).unwrap();
        let key: PrivateKeyDer<'static> =
            rustls_pki_types::pem::PemObject::from_pem_slice(key.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![chain], key)
            .unwrap();
        Arc::new(config)
    };
    let (friend, stranger) = (with(&theirs), with(&ours));
    for required in [true, false] {
        let clients = ClientCertificates {
            authorities: theirs.pem().into_bytes(),
            required,
        };
        let settings = Settings {
            clients: Some(clients),
            ..Settings::default()
        };
        let choice = server_config(&all, &settings, &tickets()).unwrap();
        for _ in 0..2 {
            let met = meet(&choice, &friend, "a.test").unwrap();
            assert!(met.server.peer_certificates().is_some());
            assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
        }
        assert!(meet(&choice, &stranger, "a.test").is_err());
        assert_eq!(meet(&choice, &anonymous, "a.test").is_ok(), !required);
    }
}

#[test]
fn what_makes_no_certificate_is_refused_with_the_cure() {
    let authority = authority();
    let (chain, key) = issue(&authority, &["a.test"]);
    let (_, other) = issue(&authority, &["a.test"]);
    for (chain, key, error) in [
        ("", &*key, CertificateError::NoCertificate),
        (&*chain, "", CertificateError::NoKey),
        (&*chain, &*other, CertificateError::Mismatch),
    ] {
        let read = Certificate::from_pem(chain.as_bytes(), key.as_bytes());
        assert_eq!(read.unwrap_err(), error);
    }
    let none = server_config(&[], &Settings::default(), &tickets());
    assert_eq!(none.unwrap_err(), SettingsError::NoCertificate);
    let settings = Settings {
        clients: Some(ClientCertificates {
            authorities: Vec::new(),
            required: true,
        }),
        ..Settings::default()
    };
    let all = [certificate(&authority, &["a.test"])];
    let none = server_config(&all, &settings, &tickets());
    assert_eq!(none.unwrap_err(), SettingsError::NoAuthority);
}

/// The files are replaced as the kubelet does it: `..data` is a link to a directory, and is
/// replaced by a rename.
#[test]
fn files_that_are_replaced_are_read_again_when_they_are_whole() {
    let authority = authority();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let publish = |version: &str, chain: &str, key: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("tls.crt"), chain).unwrap();
        fs::write(at(version).join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(version, at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
    };
    let (chain, key) = issue(&authority, &["a.test"]);
    publish("1", &chain, &key);
    let pair = format!(
        "{0}/..data/tls.crt:{0}/..data/tls.key",
        directory.path().display()
    );
    let mut files = Files::new(vec![pair.parse::<Pair>().unwrap()]);
    let names = |files: &mut Files| {
        let found = files.look(false).unwrap();
        found.map(|found| found[0].names().to_vec())
    };
    assert_eq!(names(&mut files).unwrap(), ["a.test"]);
    assert_eq!(names(&mut files), None);
    let (chain, other) = issue(&authority, &["b.test"]);
    publish("2", &chain, &key);
    let refused = files.look(false).unwrap_err().to_string();
    assert!(
        refused.contains("tls.key: the certificate does not belong to this key"),
        "{refused}"
    );
    publish("3", &chain, &other);
    assert_eq!(names(&mut files).unwrap(), ["b.test"]);
    fs::remove_file(at("..data")).unwrap();
    let refused = files.look(false).unwrap_err().to_string();
    assert!(refused.contains("tls.crt: No such file"), "{refused}");
    for wrong in ["", "a", ":b", "a:"] {
        assert!(wrong.parse::<Pair>().unwrap_err().contains("CERT:KEY"));
    }
}

#[test]
fn a_certificate_knows_when_it_expires() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let chain = params.signed_by(&key, &authority).unwrap().pem();
    let key = key.serialize_pem();
    let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(certificate.expires_at(), 1_893_456_000);
}
