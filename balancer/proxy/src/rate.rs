//! How many requests per second an address may send.
//!
//! Each address has a bucket of tokens, and a request takes one. A bucket is kept as one number,
//! the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371). A full
//! bucket need not be remembered, so forgetting one gives nobody anything.
//!
//! The number of remembered buckets is bounded. Each address belongs to one set of the table, by a
//! hash that clients do not know. If all buckets of a set are in use, the one that is full soonest
//! gives way. So an address that has used up its tokens is forgotten only when many other addresses
//! have used up more. Whoever has these addresses has their tokens as well. New addresses are
//! always served.
//!
//! This module reads no clock. What a refused request gets is decided in `exchange`.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Buckets of a set.
const WAYS: usize = 8;
/// Sets of a part of the table. 16 parts with 8 buckets in each set are 65,536 buckets, which take
/// 2 MiB.
const SETS: usize = 512;
/// Parts of the table. Each has a lock of its own.
const PARTS: usize = 16;

/// How many requests an address may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    /// Requests per second, over a long time.
    pub per_second: NonZeroU32,
    /// Requests at once, after a pause.
    pub burst: NonZeroU32,
}

/// The bucket of one address. A full bucket may be given to any other address.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    key: u128,
    /// When it is full again, in nanoseconds.
    full_at: u64,
}

/// The buckets of all addresses.
#[derive(Debug)]
pub(crate) struct Rates {
    /// The time in which a token comes back, in nanoseconds.
    interval: u64,
    /// How far ahead `full_at` may be when a request comes, in nanoseconds.
    tolerance: u64,
    hasher: RandomState,
    parts: Vec<Mutex<Vec<[Bucket; WAYS]>>>,
}

/// An address has no token left; the time until it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooSoon(pub(crate) Duration);

impl TooSoon {
    /// The value of `Retry-After`: whole seconds, at least one.
    pub(crate) fn seconds(self) -> u32 {
        let seconds = self.0.as_millis().div_ceil(1000).max(1);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

impl Rates {
    pub(crate) fn new(rate: RequestRate) -> Self {
        Self::of_size(rate, PARTS, SETS)
    }

    fn of_size(rate: RequestRate, parts: usize, sets: usize) -> Self {
        let interval = 1_000_000_000 / u64::from(rate.per_second.get());
        let interval = interval.max(1);
        let part = || Mutex::new(vec![[Bucket::default(); WAYS]; sets]);
        Self {
            interval,
            tolerance: interval * u64::from(rate.burst.get() - 1),
            hasher: RandomState::new(),
            parts: (0..parts).map(|_| part()).collect(),
        }
    }

    /// Takes a token of `address` at `now`. The addresses of an IPv6 network of 64 bits share
    /// their tokens, because one client usually has all of them.
    pub(crate) fn take(&self, address: IpAddr, now: Duration) -> Result<(), TooSoon> {
        let key = key(address);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let hash = self.hasher.hash_one(key) as usize;
        let part = &self.parts[hash % self.parts.len()];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let sets = part.len();
        let set = &mut part[hash / self.parts.len() % sets];
        let known = set.iter().position(|bucket| bucket.key == key);
        let at = known.unwrap_or_else(|| {
            let soonest = set.iter().enumerate();
            let soonest = soonest.min_by_key(|(_, bucket)| bucket.full_at);
            let at = soonest.map_or(0, |(at, _)| at);
            set[at] = Bucket { key, full_at: now };
            at
        });
        let full_at = set[at].full_at.max(now);
        let ahead = full_at - now;
        if ahead > self.tolerance {
            return Err(TooSoon(Duration::from_nanos(ahead - self.tolerance)));
        }
        set[at].full_at = full_at.saturating_add(self.interval);
        Ok(())
    }
}

/// What stands for an address in the table. No IPv6 network is an IPv4 address.
fn key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        // Not zero, which stands in unused buckets.
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64 | 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> RequestRate {
        let [per_second, burst] =
            [per_second, burst].map(|number| NonZeroU32::new(number).unwrap());
        RequestRate { per_second, burst }
    }

    fn address(last: u16) -> IpAddr {
        let [high, low] = last.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    /// How many of `count` requests at `now` are served.
    fn served(rates: &Rates, address: IpAddr, now: Duration, count: u32) -> u32 {
        (0..count)
            .map(|_| u32::from(rates.take(address, now).is_ok()))
            .sum()
    }

    #[test]
    fn a_burst_is_served_and_then_the_rate() {
        let rates = Rates::new(rate(10, 20));
        let second = Duration::from_secs(1);
        assert_eq!(served(&rates, address(1), second, 100), 20);
        assert_eq!(served(&rates, address(2), second, 100), 20);
        let refused = rates.take(address(1), second).unwrap_err();
        assert_eq!(refused.0, Duration::from_millis(100));
        assert_eq!(refused.seconds(), 1);
        assert_eq!(served(&rates, address(1), 2 * second, 100), 10);
        assert_eq!(served(&rates, address(1), 10 * second, 100), 20);
        // An older time, of another thread, gives nothing and breaks nothing.
        assert_eq!(served(&rates, address(1), 9 * second, 100), 0);
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        let rates = Rates::new(rate(1, 1));
        let now = Duration::from_secs(1);
        for (text, is_served) in [
            ("2001:db8:1:2::1", true),
            ("2001:db8:1:2:ffff::9", false),
            ("2001:db8:1:3::1", true),
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("::1", true),
            ("0.0.0.0", true),
            ("::", false),
        ] {
            let address = text.parse().unwrap();
            assert_eq!(rates.take(address, now).is_ok(), is_served, "{text}");
        }
    }

    #[test]
    fn a_spent_bucket_outlives_a_flood_of_addresses_and_new_ones_are_served() {
        // One set, so that all addresses compete.
        let rates = Rates::of_size(rate(1, 100), 1, 1);
        let now = Duration::from_secs(1);
        assert_eq!(served(&rates, address(0), now, 200), 100);
        for other in 1..5000 {
            assert!(rates.take(address(other), now).is_ok());
        }
        assert_eq!(served(&rates, address(0), now, 200), 0);
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_001, 60)] {
            assert_eq!(TooSoon(Duration::from_millis(millis)).seconds(), seconds);
        }
    }

    proptest! {
        /// While the table has room, each address is served exactly as by a bucket of its own.
        #[test]
        fn an_address_is_served_as_by_a_bucket_of_its_own(
            per_second in 1_u32..50,
            burst in 1_u32..20,
            requests in proptest::collection::vec((0_u16..8, 0_u64..400), 1..300),
        ) {
            let rates = Rates::of_size(rate(per_second, burst), 1, 1);
            // Tokens in units of a nanosecond's share.
            let interval = u64::from(1_000_000_000 / per_second);
            let most = interval * u64::from(burst);
            let mut buckets: HashMap<u16, (u64, u64)> = HashMap::new();
            let mut now = 0;
            for (who, pause) in requests {
                now += pause * 1_000_000;
                let (tokens, since) = buckets.entry(who).or_insert((most, now));
                *tokens = most.min(*tokens + (now - *since));
                *since = now;
                let is_served = *tokens >= interval;
                if is_served {
                    *tokens -= interval;
                }
                let taken = rates.take(address(who), Duration::from_nanos(now));
                prop_assert_eq!(taken.is_ok(), is_served);
                if let Err(TooSoon(wait)) = taken {
                    prop_assert_eq!(wait, Duration::from_nanos(interval - *tokens));
                }
            }
        }

        /// However many addresses there are, one address never gets more than burst and rate
        /// allow, as long as the others together send no more than it.
        #[test]
        fn no_address_gets_more_than_its_share(
            others in proptest::collection::vec(1_u16..2000, 0..300),
        ) {
            let rates = Rates::of_size(rate(10, 10), 1, 1);
            let now = Duration::from_secs(1);
            let mut count = served(&rates, address(0), now, 10);
            for other in others {
                let _any = rates.take(address(other), now);
                count += served(&rates, address(0), now, 1);
            }
            prop_assert_eq!(count, 10);
        }
    }
}
