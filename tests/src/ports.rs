//! Free ports and loopback addresses, so that tests do not collide if they run at the same time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// First port. The range is below that of outgoing connections (32768 and up), so that no client's
/// connection can take a port between the check and the use of the port.
const FIRST: u16 = 15_000;
const COUNT: u16 = 16_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
static NEXT_ADDRESS: AtomicU16 = AtomicU16::new(0);

/// A port that is free on `address` for TCP and UDP now. This process returns each port only once.
///
/// # Errors
/// No port is free.
pub fn free(address: IpAddr) -> anyhow::Result<u16> {
    // Each test process starts at a different port.
    let start = (std::process::id() as u16).wrapping_mul(97) % COUNT;
    for _ in 0..COUNT {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let at = SocketAddr::new(address, port);
        if TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on {address}");
}

/// A free port on 127.0.0.1 as an address.
///
/// # Errors
/// No port is free.
pub fn local() -> anyhow::Result<SocketAddr> {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Ok(SocketAddr::new(address, free(address)?))
}

/// A loopback address. This process returns it again only after 250 calls, and other processes very
/// probably use other addresses.
pub fn loopback() -> Ipv4Addr {
    let block = std::process::id() as u16;
    let address = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
    // The addresses begin at 127.128.0.0, apart from those of `scaledapp local`.
    let second = 128 + (block >> 8) as u8 % 128;
    Ipv4Addr::new(127, second, block as u8, 1 + (address % 250) as u8)
}
