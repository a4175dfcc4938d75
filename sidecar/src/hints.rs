//! Variables that tell a runtime its share of the container, unless the user has set them.
//! Without them each of N workers would size itself for the whole container.

use std::fmt::Write;

/// The resources from which a worker's share follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    /// The container's cores.
    pub(crate) cores: f64,
    /// The number of workers that share them.
    pub(crate) workers: u32,
    /// The container's memory limit in bytes; `None` if there is none.
    pub(crate) memory: Option<u64>,
    /// The memory limit of one worker in bytes; `None` if there is none.
    pub(crate) each: Option<u64>,
}

/// The number of threads that libuv starts by default. They wait for files and name lookups
/// and hardly compute.
const UV_THREADS: u64 = 4;
/// The size of the heap for old objects, in percent of the worker's memory limit or of its share of
/// the container's limit, whichever is smaller. V8 ends a process that exceeds this size. The
/// percentage is more than 100, so that the worker is recycled first.
const OLD_SPACE_PERCENT: u64 = 125;
/// The heap for old objects, in bytes, that Node needs to start.
const MIN_OLD_SPACE_BYTES: u64 = 32 << 20;

/// Names and values to add to a worker's environment; `get` reads its present environment.
pub(crate) fn hints(
    share: Share,
    command: &[String],
    get: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, String)> {
    let threads = (share.cores / f64::from(share.workers.max(1)))
        .ceil()
        .max(1.0) as u64;
    let mut names = vec!["GOMAXPROCS", "OMP_NUM_THREADS"];
    if threads > UV_THREADS {
        names.push("UV_THREADPOOL_SIZE");
    }
    names.retain(|name| get(name).is_none());
    let mut found: Vec<_> = names
        .into_iter()
        .map(|name| (name, threads.to_string()))
        .collect();
    let of_all = share
        .memory
        .map(|all| all / u64::from(share.workers.max(1)));
    let bytes = [share.each, of_all].into_iter().flatten().min();
    if let Some(bytes) = bytes
        && !heap_is_sized(command, &get)
    {
        let old = (bytes.saturating_mul(OLD_SPACE_PERCENT) / 100).max(MIN_OLD_SPACE_BYTES) >> 20;
        let mut value = get("NODE_OPTIONS").unwrap_or_default();
        if !value.is_empty() {
            value.push(' ');
        }
        // Writing into a String cannot fail.
        let _infallible = write!(value, "--max-old-space-size={old}");
        found.push(("NODE_OPTIONS", value));
    }
    found
}

/// Whether the user has set the size of Node's heap.
pub(crate) fn heap_is_sized(command: &[String], get: impl Fn(&str) -> Option<String>) -> bool {
    let options = get("NODE_OPTIONS").unwrap_or_default();
    command.iter().any(|word| sizes_heap(word)) || options.split(' ').any(sizes_heap)
}

/// V8 treats dashes and underscores in options alike.
fn sizes_heap(word: &str) -> bool {
    let name = word.replace('_', "-");
    [
        "--max-old-space-size",
        "--max-heap-size",
        "--max-semi-space-size",
    ]
    .iter()
    .any(|known| name.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share {
        cores: 4.0,
        workers: 4,
        memory: None,
        each: None,
    };

    fn told(share: Share, command: &str, env: &[(&str, &str)]) -> Vec<String> {
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let get = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = hints(share, &command, get);
        found
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn threads_are_a_fair_share_rounded_up() {
        let one = ["GOMAXPROCS=1", "OMP_NUM_THREADS=1"];
        assert_eq!(told(SHARE, "app", &[]), one);
        let two = Share {
            cores: 1.5,
            workers: 1,
            ..SHARE
        };
        assert_eq!(told(two, "app", &[]), ["GOMAXPROCS=2", "OMP_NUM_THREADS=2"]);
        let many = Share {
            cores: 16.0,
            workers: 2,
            ..SHARE
        };
        assert_eq!(
            told(many, "app", &[]).last().unwrap(),
            "UV_THREADPOOL_SIZE=8"
        );
        let none = Share {
            workers: 0,
            ..SHARE
        };
        assert_eq!(told(none, "app", &[])[0], "GOMAXPROCS=4");
    }

    #[test]
    fn variables_that_the_user_has_set_stay() {
        let env = [("GOMAXPROCS", "3"), ("OMP_NUM_THREADS", "")];
        assert!(told(SHARE, "app", &env).is_empty());
    }

    #[test]
    fn a_heap_is_sized_by_the_tighter_of_both_limits() {
        let limited = Share {
            memory: Some(2 << 30),
            ..SHARE
        };
        let heap = |share, command, env: &[_]| told(share, command, env).into_iter().nth(2);
        let expected = Some("NODE_OPTIONS=--max-old-space-size=640".to_owned());
        assert_eq!(heap(limited, "node app.js", &[]), expected);
        let tighter = Share {
            each: Some(200 << 20),
            ..limited
        };
        let expected = Some("NODE_OPTIONS=--max-old-space-size=250".to_owned());
        assert_eq!(heap(tighter, "node app.js", &[]), expected);
        let options = [("NODE_OPTIONS", "--enable-source-maps")];
        let expected = "NODE_OPTIONS=--enable-source-maps --max-old-space-size=640";
        assert_eq!(
            heap(limited, "node app.js", &options),
            Some(expected.to_owned())
        );
    }

    #[test]
    fn a_heap_that_the_user_has_sized_stays() {
        let limited = Share {
            memory: Some(2 << 30),
            ..SHARE
        };
        assert_eq!(
            told(limited, "node --max-old-space-size=99 app.js", &[]).len(),
            2
        );
        let options = [("NODE_OPTIONS", "--max_old_space_size=99")];
        assert_eq!(told(limited, "npm start", &options).len(), 2);
    }
}
