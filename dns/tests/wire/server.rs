//! A running `scaledapp-dns`, and clients of it.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use scaledapp_tests::served::{SOON, Served};
use scaledapp_tests::wait;

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const AAAA: u16 = 28;

/// A command that runs the binary without the caller's environment variables.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaledapp-dns"));
    command.env_clear().args(arguments);
    command
}

/// Waits until `holds` returns true.
pub(crate) fn wait(what: &str, holds: impl FnMut() -> bool) {
    wait::until_true(SOON, what, holds).unwrap();
}

/// A server that is killed when dropped.
pub(crate) struct Server {
    served: Served,
    directory: tempfile::TempDir,
}

impl Deref for Server {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Server {
    /// Serves `records` for `apps.local` on a loopback port.
    pub(crate) fn start(records: &str) -> Self {
        Self::start_with("127.0.0.1:0", Some(records), &[])
    }

    /// Without `records`, the file does not exist yet.
    pub(crate) fn start_with(listen: &str, records: Option<&str>, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("records.json");
        if let Some(records) = records {
            fs::write(&file, records).unwrap();
        }
        let file = ["--records-file", file.to_str().unwrap()];
        Self::spawn(listen, &[&file, more].concat(), None, directory)
    }

    /// Serves without a records file.
    pub(crate) fn start_without_file() -> Self {
        Self::spawn("127.0.0.1:0", &[], None, tempfile::tempdir().unwrap())
    }

    /// Serves the names of the cluster's objects.
    pub(crate) fn start_in_cluster(kubeconfig: &Path, more: &[&str]) -> Self {
        let arguments = [&["--scaledapps"], more].concat();
        let directory = tempfile::tempdir().unwrap();
        Self::spawn("127.0.0.1:0", &arguments, Some(kubeconfig), directory)
    }

    fn spawn(
        listen: &str,
        arguments: &[&str],
        kubeconfig: Option<&Path>,
        directory: tempfile::TempDir,
    ) -> Self {
        let mut command = binary(&["run", "--zone", "apps.local", "--listen", listen]);
        command
            .args(["--admin", "127.0.0.1:0"])
            .args(arguments)
            .envs(kubeconfig.map(|path| ("KUBECONFIG", path)));
        Self {
            served: Served::start(command).unwrap(),
            directory,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("records.json")
    }

    /// Renames another records file over the old one.
    pub(crate) fn replace(&self, records: &str) {
        let next = self.directory.path().join("next.json");
        fs::write(&next, records).unwrap();
        fs::rename(&next, self.path()).unwrap();
    }

    /// `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics").unwrap().text()
    }

    /// Returns the addresses that the server gives over UDP for a name of the zone, sorted.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut addresses = addresses_of(&ask(self.address, &query(1, name, A)));
        addresses.sort_unstable();
        addresses
    }

    /// Waits until a name has exactly these addresses. Returns how long it took.
    pub(crate) fn wait_addresses(&self, name: &str, expected: &[&str]) -> Duration {
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        let started = Instant::now();
        wait(&format!("{name} at {expected:?}"), || {
            self.addresses(name) == expected
        });
        started.elapsed()
    }

    /// Waits until the server exits. Returns the exit code.
    pub(crate) fn wait_end(mut self) -> i32 {
        self.served.process.wait(SOON).unwrap().code
    }
}

/// A query for `name`.apps.local.
pub(crate) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.push(name.len() as u8);
    bytes.extend(name.bytes());
    bytes.extend(b"\x04apps\x05local\0");
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// A socket that accepts answers only from the address that it sends to.
pub(crate) fn socket_to(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// Sends one datagram and waits for one.
pub(crate) fn ask(server: SocketAddr, query: &[u8]) -> Message {
    let socket = socket_to(server);
    socket.send(query).unwrap();
    receive(&socket)
}

/// The addresses in the order of the answer; empty unless the code is NOERROR.
pub(crate) fn addresses_of(message: &Message) -> Vec<IpAddr> {
    if message.metadata.response_code != ResponseCode::NoError {
        return Vec::new();
    }
    let addresses = message.answers.iter().map(|record| match &record.data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
        other => panic!("{other:?} is no address"),
    });
    addresses.collect()
}
