//! A test that sends signals to its own process. It is a separate target, so that no other test's
//! process receives them.

use std::process::Command;
use std::time::Duration;

use scaledapp_runtime::{Signal, Signals};

#[tokio::test]
async fn each_signal_arrives_as_its_kind_and_ends_nothing() {
    let mut signals = Signals::new().unwrap();
    for (name, expected) in [
        ("-TERM", Signal::Terminate),
        ("-INT", Signal::Interrupt),
        ("-HUP", Signal::Hangup),
        ("-QUIT", Signal::Terminate),
        ("-PWR", Signal::Terminate),
        ("-37", Signal::Terminate),
    ] {
        let status = Command::new("kill")
            .args([name, &std::process::id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        let signal = tokio::time::timeout(Duration::from_secs(10), signals.next())
            .await
            .unwrap();
        assert_eq!(signal, expected);
    }
}
