//! Free ports and loopback addresses that tests running at once do not share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// Below the kernel's range for outgoing connections (32768 and up), so that no
/// client's own port can take ours between the look and the use.
const FIRST: u16 = 15_000;
const COUNT: u16 = 16_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
static NEXT_ADDRESS: AtomicU16 = AtomicU16::new(0);

/// A port that is free on `address` for TCP and UDP now and is given out once
/// by this process.
///
/// # Errors
/// None is free.
pub fn free(address: IpAddr) -> anyhow::Result<u16> {
    // Test processes that run at once start at different places.
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
/// None is free.
pub fn local() -> anyhow::Result<SocketAddr> {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Ok(SocketAddr::new(address, free(address)?))
}

/// A loopback address that no other call of this process gave out; other
/// processes get another block with high likelihood.
pub fn loopback() -> Ipv4Addr {
    let block = std::process::id() as u16;
    let address = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
    // 127.128.0.0 and up: away from the .77 and .78 of `scaledapp local`.
    let second = 128 + (block >> 8) as u8 % 128;
    Ipv4Addr::new(127, second, block as u8, 1 + (address % 250) as u8)
}
