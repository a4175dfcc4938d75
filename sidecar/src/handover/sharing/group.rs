//! The sockets that share a port in Connection dispatch, one of each generation, and the
//! choice of the socket that gets new connections.
//!
//! The kernel numbers the sockets by their index in the group, and when a socket leaves, the last
//! one gets its number (`net/core/sock_reuseport.c`). This file keeps the same numbering and
//! attaches the steering program again after each change. The engine decides which generation gets
//! the connections.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use scaledapp_engine::Generation;
use scaledapp_sys::steer;
use socket2::Socket;

use super::listening::{BACKLOG, inode};

/// One `SO_REUSEPORT` group. The order of `members` is the kernel's numbering.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Vec<Member>,
}

/// The socket of one generation.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) generation: Generation,
    pub(super) inode: u64,
    pub(super) socket: Rc<Socket>,
}

impl Member {
    /// How many connections wait to be accepted.
    pub(super) fn queued(&self) -> u32 {
        steer::accept_queue(&self.socket).unwrap_or(0)
    }
}

impl Group {
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub(super) fn has(&self, inode: u64) -> bool {
        self.members.iter().any(|member| member.inode == inode)
    }

    /// The socket of a generation, and whether it was created now; `active` is the
    /// generation that gets new connections.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub(super) fn socket_of(
        &mut self,
        generation: Generation,
        active: Option<Generation>,
        make: impl FnOnce() -> io::Result<Socket>,
    ) -> io::Result<(Rc<Socket>, bool)> {
        if let Some(known) = self.members().find(|one| one.generation == generation) {
            return Ok((Rc::clone(&known.socket), false));
        }
        let socket = Rc::new(make()?);
        self.members.push(Member {
            generation,
            inode: inode(&socket)?,
            socket: Rc::clone(&socket),
        });
        self.steer(active);
        Ok((socket, true))
    }

    /// Makes the sockets that a worker has shut down listen again.
    pub(super) fn mend(&mut self, active: Option<Generation>) {
        let ended = |one: &Member| one.socket.is_listener().is_ok_and(|listens| !listens);
        while let Some(index) = self.members.iter().position(ended) {
            // The shutdown removed the socket from the group. `listen` adds it again as the last
            // one.
            let member = self.members.swap_remove(index);
            if let Err(error) = member.socket.listen(BACKLOG) {
                tracing::error!(%error, "a socket that a worker has shut down is lost");
                continue;
            }
            tracing::warn!(
                "a worker has shut down the socket that all workers share; it listens again"
            );
            self.members.push(member);
            self.steer(active);
        }
    }

    /// Closes the sockets of every inactive generation for which `in_use` is false.
    pub(super) fn retire(
        &mut self,
        active: Option<Generation>,
        in_use: impl Fn(Generation) -> bool,
    ) {
        let ends = |one: &Member| Some(one.generation) != active && !in_use(one.generation);
        while let Some(index) = self.members.iter().position(ends) {
            let left = self.members.swap_remove(index);
            // The shutdown removes the socket from the group immediately, even if a process that
            // escaped from its worker's process group still has a copy.
            let _left_already = left.socket.shutdown(Shutdown::Both);
            self.steer(active);
        }
    }

    /// Attaches the program again; called whenever the numbering or the active generation
    /// has changed.
    pub(super) fn steer(&self, active: Option<Generation>) {
        // Before the first activation, the oldest generation gets the connections, because
        // it will be activated first.
        let index = active
            .and_then(|active| self.members().position(|one| one.generation == active))
            .unwrap_or(0);
        if let Some(first) = self.members.first()
            && let Err(error) = steer::steer_group(&first.socket, index as u32)
        {
            tracing::error!(%error, "cannot steer new connections: a reload may lose some");
        }
    }
}
