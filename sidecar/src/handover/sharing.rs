//! The socket that a worker gets when it binds a port that workers share.
//!
//! Request dispatch: each bind gets a private loopback socket, to which only the dispatcher
//! connects. It is closed with the worker, so that connections waiting in it fail immediately
//! and their requests are sent to other workers. Connection dispatch: there is one socket per
//! generation and address family. The supervisor keeps it, so that its queue outlives every
//! worker, and a steering program sends new connections to one generation. `calls` reads what
//! the worker asked for; the engine decides when to switch generations and when to retire one.

mod family;
mod group;
mod listening;
mod mending;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use scaledapp_engine::{Generation, WorkerId};
use socket2::Socket;

use group::{Group, Member};
use listening::{
    BACKLOG, address_for, group_socket, inode, local_address, new_socket, refuse_new, try_out,
};
use mending::Unwatched;

pub(crate) use family::Family;

/// Maximum number of remembered sockets per worker and kind. An app has a handful of ports, and an
/// app that binds in a loop must not make the supervisor's memory grow.
const REMEMBERED: usize = 32;

/// A `bind` of a stream socket to a shared port, with the properties that the replacement
/// must copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind {
    /// The port that the app asked for.
    pub(crate) port: u16,
    /// The address family of the app's socket.
    pub(crate) family: Family,
    /// Whether the app's socket has `O_NONBLOCK`. The flag belongs to the open file
    /// description, so without a copy the app's socket would have the supervisor's setting
    /// instead of the app's.
    pub(crate) nonblocking: bool,
}

/// The worker's new socket.
pub(crate) enum WorkerSocket {
    /// A socket of this worker alone.
    Own(Rc<Socket>),
    /// A socket of all workers of its generation, which listens already.
    Shared(Rc<Socket>),
}

impl WorkerSocket {
    /// Its descriptor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(socket) | Self::Shared(socket) => socket.as_fd(),
        }
    }
}

/// What a `listen` call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listened {
    /// A shared port.
    Shared {
        /// The port.
        port: u16,
        /// The worker's own address; `None` if all workers accept from one queue.
        address: Option<SocketAddr>,
    },
    /// Another port that the worker had bound before.
    Elsewhere(u16),
    /// Any other socket, for example a Unix socket or one on which `bind` was never called.
    Unknown,
}

/// The sockets that workers have been given, and those that workers bound for themselves.
#[derive(Debug)]
pub(crate) struct Sharing {
    mode: Mode,
    /// The private sockets of each worker, newest last.
    private: HashMap<WorkerId, Vec<Private>>,
    /// The inodes and ports of sockets that workers bound for themselves.
    foreign: HashMap<WorkerId, Vec<(u64, u16)>>,
    /// Shared sockets created since the last call of [`watch_new`].
    unwatched: Vec<Unwatched>,
}

#[derive(Debug)]
enum Mode {
    Request,
    Connection {
        host: Option<IpAddr>,
        /// The ports with a queue for all workers; other ports are private.
        ports: Vec<u16>,
        groups: HashMap<(Family, u16), Group>,
        active: Option<Generation>,
    },
}

#[derive(Debug)]
struct Private {
    inode: u64,
    port: u16,
    address: SocketAddr,
    /// The supervisor's copy. It is dropped when the worker listens, so that the socket is
    /// closed when the worker ends.
    bound: Option<Rc<Socket>>,
}

impl Sharing {
    /// Sockets for Request dispatch.
    pub(crate) fn request() -> Self {
        Self::new(Mode::Request)
    }

    /// Sockets for Connection dispatch on `host` (`None`: all addresses).
    ///
    /// # Errors
    /// A port is taken; it is returned with the error. This is tested without `SO_REUSEPORT`,
    /// because otherwise two supervisors would silently share the port.
    pub(crate) fn connection(
        host: Option<IpAddr>,
        ports: Vec<u16>,
    ) -> Result<Self, (u16, io::Error)> {
        for &port in &ports {
            try_out(host, port).map_err(|error| (port, error))?;
        }
        Ok(Self::new(Mode::Connection {
            host,
            ports,
            groups: HashMap::new(),
            active: None,
        }))
    }

    fn new(mode: Mode) -> Self {
        Self {
            mode,
            private: HashMap::new(),
            foreign: HashMap::new(),
            unwatched: Vec::new(),
        }
    }

    /// The socket for a worker's bind to a shared port.
    ///
    /// # Errors
    /// The socket cannot be created. `AddrNotAvailable` means that the app asks for IPv4
    /// but the host to serve on is an IPv6 address.
    pub(crate) fn bind(
        &mut self,
        worker: WorkerId,
        generation: Generation,
        bind: Bind,
    ) -> io::Result<WorkerSocket> {
        if let Mode::Connection {
            host,
            ports,
            groups,
            active,
        } = &mut self.mode
            && ports.contains(&bind.port)
        {
            let group = groups.entry((bind.family, bind.port)).or_default();
            let address = address_for(bind.family, *host, bind.port)?;
            let make = || group_socket(bind.family, &address);
            let (socket, is_new) = group.socket_of(generation, *active, make)?;
            if is_new {
                self.unwatched.push(Unwatched {
                    inode: inode(&socket)?,
                    socket: Rc::clone(&socket),
                });
            }
            socket.set_nonblocking(bind.nonblocking)?;
            return Ok(WorkerSocket::Shared(socket));
        }
        let socket = new_socket(bind.family)?;
        let loopback = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        socket.bind(&address_for(bind.family, loopback, 0)?)?;
        // The socket does not listen yet. If it did, the app might omit its own `listen`
        // (gunicorn does), which shows the supervisor that the worker is ready.
        socket.set_nonblocking(bind.nonblocking)?;
        let socket = Rc::new(socket);
        let sockets = self.private.entry(worker).or_default();
        if sockets.len() == REMEMBERED {
            sockets.remove(0);
        }
        sockets.push(Private {
            inode: inode(&socket)?,
            port: bind.port,
            address: local_address(&socket)?,
            bound: Some(Rc::clone(&socket)),
        });
        Ok(WorkerSocket::Own(socket))
    }

    /// Remembers a bind that was let through, for log messages.
    pub(crate) fn bound_elsewhere(&mut self, worker: WorkerId, inode: u64, port: u16) {
        let known = self.foreign.entry(worker).or_default();
        if known.len() < REMEMBERED {
            known.push((inode, port));
        }
    }

    /// Identifies the socket that a worker calls `listen` on, before the call continues. A
    /// private socket listens from now on, because the dispatcher's next connect must not
    /// be refused.
    pub(crate) fn listened(&mut self, worker: WorkerId, inode: u64) -> Listened {
        let mine = self.private.get_mut(&worker).into_iter().flatten();
        if let Some(private) = mine.rev().find(|private| private.inode == inode) {
            if let Some(socket) = private.bound.take() {
                // The app's own call will report the error.
                let _said_by_the_app = socket.listen(BACKLOG);
            }
            return Listened::Shared {
                port: private.port,
                address: Some(private.address),
            };
        }
        if let Mode::Connection { groups, .. } = &self.mode {
            let mut groups = groups.iter();
            if let Some(((_, port), _)) = groups.find(|(_, group)| group.has(inode)) {
                return Listened::Shared {
                    port: *port,
                    address: None,
                };
            }
        }
        let mine = self.foreign.get(&worker).into_iter().flatten();
        mine.rev()
            .find(|(known, _)| *known == inode)
            .map_or(Listened::Unknown, |(_, port)| Listened::Elsewhere(*port))
    }

    /// Makes sockets that a worker has shut down listen again. shutdown(2) of a listening socket
    /// disconnects it for all processes that share it; connections that waited in it are
    /// lost.
    pub(crate) fn mend(&mut self) {
        let Mode::Connection { groups, active, .. } = &mut self.mode else {
            return;
        };
        for group in groups.values_mut() {
            group.mend(*active);
        }
    }

    /// The inodes of all shared sockets.
    pub(crate) fn inodes(&self) -> HashSet<u64> {
        self.members().map(|member| member.inode).collect()
    }

    /// Whether a shared socket has this inode.
    fn has(&self, inode: u64) -> bool {
        self.members().any(|member| member.inode == inode)
    }

    /// Sends all new connections to `generation`.
    pub(crate) fn activate(&mut self, generation: Generation) {
        if let Mode::Connection { groups, active, .. } = &mut self.mode {
            *active = Some(generation);
            for group in groups.values() {
                group.steer(Some(generation));
            }
        }
    }

    /// How many connections wait in the sockets of `generation`.
    pub(crate) fn queued(&self, generation: Generation) -> u32 {
        self.members()
            .filter(|one| one.generation == generation)
            .map(Member::queued)
            .sum()
    }

    /// How many connections wait in all shared sockets.
    pub(crate) fn queued_in_all(&self) -> u32 {
        self.members().map(Member::queued).sum()
    }

    /// Closes the sockets of every inactive generation for which `in_use` is false. The
    /// kernel resets connections that still wait in them, which is why the engine drains
    /// first.
    pub(crate) fn retire(&mut self, in_use: impl Fn(Generation) -> bool) {
        if let Mode::Connection { groups, active, .. } = &mut self.mode {
            for group in groups.values_mut() {
                group.retire(*active, &in_use);
            }
        }
    }

    /// The inodes of the sockets that the workers of `generation` accept from.
    pub(crate) fn listeners(&self, generation: Generation) -> HashSet<u64> {
        let mine = self
            .members()
            .filter(|member| member.generation == generation);
        mine.map(|member| member.inode).collect()
    }

    /// Whether new connections go to `generation`.
    pub(crate) fn is_active(&self, generation: Generation) -> bool {
        matches!(&self.mode, Mode::Connection { active, .. } if *active == Some(generation))
    }

    /// Lets no new connection begin at any shared socket; waiting connections are still
    /// accepted.
    pub(crate) fn refuse_new(&self) {
        for member in self.members() {
            if let Err(error) = refuse_new(&member.socket) {
                tracing::debug!(%error, "connections that arrive in the last moment will be reset");
            }
        }
    }

    /// The opposite of [`Self::refuse_new`].
    pub(crate) fn take_new(&self) {
        for member in self.members() {
            // A socket that was created since `refuse_new` has no filter.
            let _none = member.socket.detach_filter();
        }
    }

    /// Forgets a worker that is reaped.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.foreign.remove(&worker);
        self.private.remove(&worker);
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        let groups = match &self.mode {
            Mode::Request => None,
            Mode::Connection { groups, .. } => Some(groups),
        };
        groups
            .into_iter()
            .flatten()
            .flat_map(|(_, group)| group.members())
    }
}

/// Watches all new shared sockets, each until it is no longer shared.
pub(crate) fn watch_new(sharing: &Rc<RefCell<Sharing>>) {
    let new = std::mem::take(&mut sharing.borrow_mut().unwatched);
    for unwatched in new {
        let sharing = Rc::clone(sharing);
        tokio::task::spawn_local(unwatched.watch(move |inode| {
            let mut sharing = sharing.borrow_mut();
            sharing.mend();
            sharing.has(inode)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, Shutdown, TcpStream};

    const PORT: u16 = 3000;
    const BIND: Bind = Bind {
        port: PORT,
        family: Family::V4,
        nonblocking: false,
    };

    fn free_port() -> u16 {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port()
    }

    #[test]
    fn a_private_socket_is_reachable_at_the_address_that_listen_reports() {
        let mut sharing = Sharing::request();
        for family in [Family::V4, Family::V6] {
            let bind = Bind { family, ..BIND };
            let given = sharing.bind(WorkerId(1), Generation(1), bind).unwrap();
            let inode = rustix::fs::fstat(given.as_fd()).unwrap().st_ino;
            let Listened::Shared {
                port: PORT,
                address: Some(address),
            } = sharing.listened(WorkerId(1), inode)
            else {
                panic!("not known: {family:?}");
            };
            assert!(address.is_ipv4() && address.ip().is_loopback());
            TcpStream::connect(address).unwrap();
            assert_eq!(sharing.listened(WorkerId(2), inode), Listened::Unknown);
        }
    }

    #[test]
    fn a_listen_on_another_port_names_it() {
        let mut sharing = Sharing::request();
        sharing.bound_elsewhere(WorkerId(1), 77, 8080);
        assert_eq!(sharing.listened(WorkerId(1), 77), Listened::Elsewhere(8080));
        sharing.forget(WorkerId(1));
        assert_eq!(sharing.listened(WorkerId(1), 77), Listened::Unknown);
    }

    #[test]
    fn workers_of_one_generation_share_a_queue_and_the_next_has_its_own() {
        let port = free_port();
        let host = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut sharing = Sharing::connection(host, vec![port]).unwrap();
        let inode_of = |given: &WorkerSocket| rustix::fs::fstat(given.as_fd()).unwrap().st_ino;
        let bind = Bind { port, ..BIND };
        let first = sharing.bind(WorkerId(1), Generation(1), bind).unwrap();
        let sibling = sharing.bind(WorkerId(2), Generation(1), bind).unwrap();
        assert_eq!(inode_of(&first), inode_of(&sibling));
        sharing.activate(Generation(1));

        let next = sharing.bind(WorkerId(3), Generation(2), bind).unwrap();
        assert_ne!(inode_of(&first), inode_of(&next));
        let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let before: Vec<_> = (0..5).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(1)), 5);
        sharing.activate(Generation(2));
        let after: Vec<_> = (0..7).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(1)), before.len() as u32);
        assert_eq!(sharing.queued(Generation(2)), after.len() as u32);

        drop((first, sibling));
        sharing.retire(|_| false);
        let _more: Vec<_> = (0..3).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(2)), 10);
        assert_eq!(sharing.queued_in_all(), 10);
    }

    #[test]
    fn a_leaked_copy_keeps_no_place_in_the_group() {
        let port = free_port();
        let host = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut sharing = Sharing::connection(host, vec![port]).unwrap();
        let asked = Bind { port, ..BIND };
        let mut bind = |generation| sharing.bind(WorkerId(1), generation, asked).unwrap();
        let escaped = bind(Generation(1)).as_fd().try_clone_to_owned().unwrap();
        drop((bind(Generation(2)), bind(Generation(3))));
        sharing.activate(Generation(2));
        // When the first socket leaves the group, the last socket takes over its number. The
        // active socket keeps its own number.
        sharing.retire(|generation| generation == Generation(3));
        let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let held: Vec<_> = (0..6).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(2)), held.len() as u32);
        sharing.activate(Generation(3));
        let more: Vec<_> = (0..5).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(3)), more.len() as u32);
        drop(escaped);
    }

    #[test]
    fn sockets_that_refuse_new_connections_keep_waiting_ones() {
        let port = free_port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut sharing = Sharing::connection(Some(address.ip()), vec![port]).unwrap();
        let bind = Bind { port, ..BIND };
        let _given = sharing.bind(WorkerId(1), Generation(1), bind).unwrap();
        let _kept = TcpStream::connect(address).unwrap();
        sharing.refuse_new();
        let moment = std::time::Duration::from_millis(100);
        let late = TcpStream::connect_timeout(&address, moment).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(sharing.queued(Generation(1)), 1);
        sharing.take_new();
        let _next = TcpStream::connect(address).unwrap();
        assert_eq!(sharing.queued(Generation(1)), 2);
    }

    #[test]
    fn a_port_that_is_not_shared_is_private_even_in_connection_dispatch() {
        let port = free_port();
        let host = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut sharing = Sharing::connection(host, vec![port]).unwrap();
        let given = [1, 2].map(|worker| {
            let given = sharing.bind(WorkerId(worker), Generation(1), BIND).unwrap();
            let inode = rustix::fs::fstat(given.as_fd()).unwrap().st_ino;
            sharing.listened(WorkerId(worker), inode)
        });
        assert!(given.iter().all(|told| matches!(
            told,
            Listened::Shared {
                port: PORT,
                address: Some(_)
            }
        )));
        assert_ne!(given[0], given[1]);
    }

    #[test]
    fn a_private_socket_listens_when_its_worker_does() {
        let mut sharing = Sharing::request();
        let given = sharing.bind(WorkerId(1), Generation(1), BIND).unwrap();
        let WorkerSocket::Own(socket) = &given else {
            panic!("made for one worker");
        };
        assert!(!socket.is_listener().unwrap());
        let inode = inode(socket).unwrap();
        sharing.listened(WorkerId(1), inode);
        assert!(socket.is_listener().unwrap());
        // The supervisor has no copy of it left.
        assert_eq!(Rc::strong_count(socket), 1);
    }

    #[test]
    fn a_socket_that_a_worker_has_shut_down_listens_again() {
        let port = free_port();
        let host = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut sharing = Sharing::connection(host, vec![port]).unwrap();
        let asked = Bind { port, ..BIND };
        let given = [1, 2, 3].map(|generation| {
            sharing
                .bind(WorkerId(1), Generation(generation), asked)
                .unwrap()
        });
        sharing.activate(Generation(1));
        let WorkerSocket::Shared(socket) = &given[0] else {
            panic!("made for all");
        };
        socket.shutdown(Shutdown::Both).unwrap();
        sharing.mend();
        let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        let held: Vec<_> = (0..6).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(1)), held.len() as u32);
        sharing.activate(Generation(3));
        let more: Vec<_> = (0..5).map(|_| connect()).collect();
        assert_eq!(sharing.queued(Generation(3)), more.len() as u32);
    }

    #[test]
    fn an_app_that_binds_in_a_loop_does_not_make_the_supervisor_grow() {
        let mut sharing = Sharing::request();
        let mut last = 0;
        for _ in 0..3 * REMEMBERED {
            let given = sharing.bind(WorkerId(1), Generation(1), BIND).unwrap();
            last = rustix::fs::fstat(given.as_fd()).unwrap().st_ino;
            sharing.bound_elsewhere(WorkerId(1), last, 1);
        }
        assert!(matches!(
            sharing.listened(WorkerId(1), last),
            Listened::Shared { .. }
        ));
        assert_eq!(sharing.private[&WorkerId(1)].len(), REMEMBERED);
        assert_eq!(sharing.foreign[&WorkerId(1)].len(), REMEMBERED);
    }

    #[test]
    fn a_taken_port_is_noticed_before_it_is_shared() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let host = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (named, error) = Sharing::connection(host, vec![free_port(), port]).unwrap_err();
        assert_eq!((named, error.kind()), (port, io::ErrorKind::AddrInUse));
    }

    #[test]
    fn an_ipv4_app_cannot_serve_an_ipv6_host() {
        let port = free_port();
        let mut sharing =
            Sharing::connection(Some(IpAddr::V6(Ipv6Addr::LOCALHOST)), vec![port]).unwrap();
        let bind = Bind { port, ..BIND };
        let refused = sharing.bind(WorkerId(1), Generation(1), bind);
        let kind = refused.err().map(|error| error.kind());
        assert_eq!(kind, Some(io::ErrorKind::AddrNotAvailable));
    }
}
