//! The series of the tests of alerts, one value a minute, in promtool's notation: `0+5x10` is 0, 5,
//! …, 50; `1x3` is 1 four times; `_` is a missing value; `stale` ends the series.

/// What a case shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fires,
    /// Just below the threshold, or not for long enough.
    Below,
    NoTraffic,
    /// The series have ended, because their target is gone.
    Gone,
    /// A counter begins again, or a gauge comes and goes.
    Reset,
}

/// One test of one alert.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) alert: &'static str,
    pub(crate) kind: Kind,
    pub(crate) what: &'static str,
    pub(crate) series: &'static [(&'static str, &'static str)],
    /// When to look.
    pub(crate) at: &'static str,
    /// The labels and the summary of the alert that must fire; `None` if none may.
    pub(crate) firing: Option<(&'static [(&'static str, &'static str)], &'static str)>,
}

const APP: &[(&str, &str)] = &[("namespace", "shop"), ("app", "web")];

macro_rules! cases {
    ($($alert:ident { $($kind:ident $what:literal at $at:literal: $([$series:expr, $values:literal])* $(=> $labels:expr, $summary:literal)?;)* })*) => {
        pub(crate) const CASES: &[Case] = &[$($(Case {
            alert: stringify!($alert),
            kind: Kind::$kind,
            what: $what,
            series: &[$(($series, $values)),*],
            at: $at,
            firing: cases!(@firing $($labels, $summary)?),
        },)*)*];
    };
    (@firing) => { None };
    (@firing $labels:expr, $summary:literal) => { Some(($labels, $summary)) };
}

macro_rules! series {
    ($name:literal) => {
        series!($name, "")
    };
    ($name:literal, $more:literal) => {
        concat!($name, "{namespace=\"shop\",app=\"web\"", $more, "}")
    };
}

macro_rules! condition {
    ($kind:literal, $status:literal) => {
        concat!(
            "scaledapp_operator_condition{namespace=\"shop\",app=\"web\",type=\"",
            $kind,
            "\",status=\"",
            $status,
            "\"}"
        )
    };
}

macro_rules! requests {
    ($code:literal) => {
        concat!(
            "scaledapp_balancer_requests_total{namespace=\"shop\",app=\"web\",pod=\"lb-0\",code=\"",
            $code,
            "\"}"
        )
    };
}

macro_rules! bucket {
    ($le:literal) => { concat!("scaledapp_balancer_request_duration_seconds_bucket{namespace=\"shop\",app=\"web\",pod=\"lb-0\",le=\"", $le, "\"}") };
}

const CUT_OFF: &str = series!(
    "scaledapp_balancer_failures_total",
    ",pod=\"lb-0\",cause=\"cut_off\""
);
const RELAYED: &str = series!(
    "scaledapp_balancer_tcp_relayed_connections_total",
    ",pod=\"lb-0\""
);
const COUNT: &str = series!(
    "scaledapp_balancer_request_duration_seconds_count",
    ",pod=\"lb-0\""
);
const WAITING: &str = series!("scaledapp_balancer_requests_waiting", ",pod=\"lb-0\"");
const WAITING_IN_POD: &str = series!(
    "scaledapp_dispatch_requests_waiting",
    ",pod=\"a\",component=\"app\""
);
const QUEUE_FULL: &str = series!(
    "scaledapp_balancer_failures_total",
    ",pod=\"lb-0\",cause=\"queue_full\""
);
const READY: &str = series!("scaledapp_workers_ready", ",pod=\"a\",component=\"app\"");
const DESIRED: &str = series!("scaledapp_workers_desired", ",pod=\"a\",component=\"app\"");
const RESTARTS: &str = series!(
    "scaledapp_worker_restarts_total",
    ",pod=\"a\",component=\"app\""
);
const FAILED: &str = series!(
    "scaledapp_reloads_failed_total",
    ",pod=\"a\",component=\"app\""
);
const OVERFLOWS: &str = series!(
    "scaledapp_listen_overflows_total",
    ",pod=\"a\",component=\"app\""
);
const OTHERS: &str = series!(
    "scaledapp_operator_slot_holder",
    ",slot=\"1\",own=\"false\""
);
const OWN: &str = series!("scaledapp_operator_slot_holder", ",slot=\"1\",own=\"true\"");
const BLIND: &str = series!(
    "scaledapp_balancer_endpoints",
    ",pod=\"lb-0\",standing=\"serving\""
);
const SEES: &str = series!(
    "scaledapp_balancer_endpoints",
    ",pod=\"lb-1\",standing=\"serving\""
);
const AGE: &str = "scaledapp_dns_records_age_seconds{namespace=\"scaledapp-system\",pod=\"dns-0\"}";
const STALE: &str =
    "scaledapp_dns_stale_answers_total{namespace=\"scaledapp-system\",pod=\"dns-0\"}";
const LEADER: [&str; 2] = [
    "scaledapp_operator_leader{namespace=\"scaledapp-system\",pod=\"op-0\"}",
    "scaledapp_operator_leader{namespace=\"scaledapp-system\",pod=\"op-1\"}",
];
const WATCH: &str = "scaledapp_operator_watch_age_seconds{namespace=\"scaledapp-system\",pod=\"op-0\",kind=\"Pod\"}";
const GOOD: &str = "scaledapp_operator_reconciles_total{namespace=\"scaledapp-system\",pod=\"op-0\",result=\"ok\"}";
const BAD: &str = "scaledapp_operator_reconciles_total{namespace=\"scaledapp-system\",pod=\"op-0\",result=\"refused\"}";

const POD: &[(&str, &str)] = &[("namespace", "shop"), ("app", "web"), ("pod", "a")];
const SLOT: &[(&str, &str)] = &[("namespace", "shop"), ("app", "web"), ("slot", "1")];
const BALANCER: &[(&str, &str)] = &[("namespace", "shop"), ("app", "web"), ("pod", "lb-0")];
const DNS: &[(&str, &str)] = &[("namespace", "scaledapp-system"), ("pod", "dns-0")];
const OPERATOR: &[(&str, &str)] = &[("namespace", "scaledapp-system"), ("pod", "op-0")];

cases! {
    ScaledAppNotServing {
        Fires "all pods are gone" at "5m": [condition!("Ready", "False"), "1x10"] => APP, "ScaledApp shop/web serves no requests";
        Below "it is Ready" at "5m": [condition!("Ready", "True"), "1x10"];
        Below "less than a minute" at "5m": [condition!("Ready", "True"), "1x4 stale"] [condition!("Ready", "False"), "_x5 1x5"];
        NoTraffic "no app" at "5m":;
        Gone "the operator is gone" at "5m": [condition!("Ready", "False"), "1x2 stale"];
        Reset "it comes and goes" at "6m": [condition!("Ready", "False"), "1 stale 1 stale 1 stale 1"];
    }
    ScaledAppStalled {
        Fires "port 0" at "6m": [condition!("Stalled", "True"), "1x10"] => APP, "ScaledApp shop/web waits for a person to change something";
        Below "four minutes" at "8m": [condition!("Stalled", "False"), "1x3 stale"] [condition!("Stalled", "True"), "_x4 1x10"];
        NoTraffic "not stalled" at "6m": [condition!("Stalled", "False"), "1x10"];
        Gone "the app is deleted" at "10m": [condition!("Stalled", "True"), "1x7 stale"];
        Reset "it comes and goes" at "8m": [condition!("Stalled", "True"), "1x3 stale 1x3 stale"];
    }
    ScaledAppErrorsHigh {
        Fires "the app answers 500" at "90m":
            [requests!("2xx"), "0+5880x90"] [requests!("5xx"), "0+120x90"] [CUT_OFF, "0x90"] [RELAYED, "0x90"]
            => APP, "2% of the requests to shop/web fail";
        Fires "the app breaks answers off" at "90m":
            [requests!("2xx"), "0+5700x90"] [requests!("5xx"), "0x90"] [CUT_OFF, "0+300x90"] [RELAYED, "0x90"]
            => APP, "5% of the requests to shop/web fail";
        Fires "relayed connections break off" at "90m":
            [requests!("2xx"), "0x90"] [requests!("5xx"), "0x90"] [CUT_OFF, "0+300x90"] [RELAYED, "0+2700x90"]
            => APP, "10% of the requests to shop/web fail";
        Below "0.9 %" at "90m":
            [requests!("2xx"), "0+5946x90"] [requests!("5xx"), "0+54x90"] [CUT_OFF, "0x90"] [RELAYED, "0x90"];
        Below "a burst that the hour outweighs" at "93m":
            [requests!("2xx"), "0+6000x93"] [requests!("5xx"), "0x90 300 600 600"] [CUT_OFF, "0x93"] [RELAYED, "0x93"];
        NoTraffic "no request at all" at "90m":
            [requests!("2xx"), "0x90"] [requests!("5xx"), "0x90"] [CUT_OFF, "0x90"] [RELAYED, "0x90"];
        NoTraffic "one request in two seconds fails" at "90m":
            [requests!("2xx"), "0x90"] [requests!("5xx"), "0+30x90"] [CUT_OFF, "0x90"] [RELAYED, "0x90"];
        Gone "the balancers are gone" at "90m":
            [requests!("2xx"), "0+5880x60 stale"] [requests!("5xx"), "0+120x60 stale"] [CUT_OFF, "0x60 stale"] [RELAYED, "0x60 stale"];
        Reset "a restarted balancer" at "90m":
            [requests!("2xx"), "0+5946x60 0+5946x30"] [requests!("5xx"), "0+54x60 0+54x30"] [CUT_OFF, "7x60 0x30"] [RELAYED, "0x90"];
    }
    ScaledAppLatencyHigh {
        Fires "one request in twenty takes four seconds" at "30m":
            [bucket!("1"), "0+540x30"] [bucket!("2.5"), "0+570x30"] [bucket!("5"), "0+600x30"] [bucket!("+Inf"), "0+600x30"] [COUNT, "0+600x30"]
            => APP, "Requests to shop/web are slow: 4.5s";
        Below "all within a second" at "30m":
            [bucket!("1"), "0+600x30"] [bucket!("2.5"), "0+600x30"] [bucket!("5"), "0+600x30"] [bucket!("+Inf"), "0+600x30"] [COUNT, "0+600x30"];
        NoTraffic "no request" at "30m":
            [bucket!("1"), "0x30"] [bucket!("2.5"), "0x30"] [bucket!("5"), "0x30"] [bucket!("+Inf"), "0x30"] [COUNT, "0x30"];
        NoTraffic "a slow request every two seconds" at "30m":
            [bucket!("1"), "0x30"] [bucket!("2.5"), "0x30"] [bucket!("5"), "0+30x30"] [bucket!("+Inf"), "0+30x30"] [COUNT, "0+30x30"];
        Gone "the balancers are gone" at "30m":
            [bucket!("1"), "0+540x20 stale"] [bucket!("5"), "0+600x20 stale"] [bucket!("+Inf"), "0+600x20 stale"] [COUNT, "0+600x20 stale"];
        Reset "a restarted balancer" at "30m":
            [bucket!("1"), "0+600x20 0+600x10"] [bucket!("5"), "0+600x20 0+600x10"] [bucket!("+Inf"), "0+600x20 0+600x10"] [COUNT, "0+600x20 0+600x10"];
    }
    ScaledAppQueueing {
        Fires "requests wait in the balancer" at "6m": [WAITING, "3x10"] [WAITING_IN_POD, "0x10"] => APP, "Requests to shop/web wait for a free worker";
        Fires "requests wait in a pod" at "6m": [WAITING, "0x10"] [WAITING_IN_POD, "3x10"] => APP, "Requests to shop/web wait for a free worker";
        Fires "the queue is full" at "12m": [QUEUE_FULL, "0+10x12"] [WAITING, "0x12"] => APP, "Requests to shop/web wait for a free worker";
        Below "not all the time" at "10m": [WAITING, "3x3 0 3x3 0 3x3"];
        NoTraffic "no request" at "10m": [WAITING, "0x10"] [WAITING_IN_POD, "0x10"] [QUEUE_FULL, "0x10"];
        Gone "the balancer is gone" at "10m": [WAITING, "3x7 stale"];
        Reset "a restarted balancer" at "15m": [QUEUE_FULL, "50x5 0x10"] [WAITING, "0x15"];
    }
    ScaledAppWorkersMissing {
        Fires "a worker exits at its start" at "15m": [READY, "3x20"] [DESIRED, "4x20"] => APP, "Only 75% of the workers of shop/web are ready";
        Below "nine of ten" at "15m": [READY, "9x20"] [DESIRED, "10x20"];
        NoTraffic "no worker is wanted" at "15m": [READY, "0x20"] [DESIRED, "0x20"];
        Gone "the pod is gone" at "20m": [READY, "3x15 stale"] [DESIRED, "4x15 stale"];
        Reset "a deploy" at "15m": [READY, "3x5 4x5 3x5"] [DESIRED, "4x20"];
    }
    ScaledAppWorkersRestarting {
        Fires "kill -9 each minute" at "20m": [RESTARTS, "0+1x20"] => POD, "Workers of shop/a ended unexpectedly 10 times in ten minutes";
        Below "four in ten minutes" at "15m": [RESTARTS, "0x5 1x2 2x2 3x2 4x20"];
        NoTraffic "none" at "20m": [RESTARTS, "0x20"];
        Gone "the pod is gone" at "40m": [RESTARTS, "0+1x20 stale"];
        Reset "a restarted supervisor" at "20m": [RESTARTS, "100x5 0x20"];
    }
    ScaledAppReloadFailed {
        Fires "a release that does not listen" at "7m": [FAILED, "0x5 1x10"] => APP, "A reload of shop/web failed; the old workers still serve";
        Below "twenty minutes ago" at "30m": [FAILED, "0x5 1x30"];
        NoTraffic "no reload" at "7m": [FAILED, "0x10"];
        Gone "the pod is gone" at "30m": [FAILED, "0x5 1x3 stale"];
        Reset "a restarted supervisor" at "9m": [FAILED, "3x5 0x10"];
    }
    ScaledAppConnectionsDropped {
        Fires "all workers are stopped" at "15m": [OVERFLOWS, "0+10x20"] => POD, "The kernel dropped 50 connections of shop/a in five minutes";
        Below "one burst" at "11m": [OVERFLOWS, "7x5 17x20"];
        NoTraffic "old drops only" at "15m": [OVERFLOWS, "51445x20"];
        Gone "the pod is gone" at "30m": [OVERFLOWS, "0+10x20 stale"];
        Reset "a new network namespace" at "15m": [OVERFLOWS, "51445x8 0x10"];
    }
    ScaledAppSlotTakenOver {
        Fires "a balancer cannot be scheduled" at "6m": [OTHERS, "1x10"] => SLOT, "The balancer of slot 1 of shop/web does not serve";
        Below "its own balancer is back after four minutes" at "7m": [OTHERS, "1x4 stale"] [OWN, "_x5 1x5"];
        NoTraffic "its own balancer serves" at "6m": [OWN, "1x10"];
        Gone "the app is deleted" at "10m": [OTHERS, "1x7 stale"];
        Reset "it comes and goes" at "9m": [OTHERS, "1x3 stale 1x4 stale"] [OWN, "_x4 1 _x4 1"];
    }
    ScaledAppBalancerBlind {
        Fires "a NetworkPolicy on one balancer" at "5m": [BLIND, "0x10"] [SEES, "2x10"] => BALANCER, "Balancer shop/lb-0 finds no pod that serves, and others do";
        Below "none finds a pod" at "5m": [BLIND, "0x10"] [SEES, "0x10"];
        NoTraffic "both find pods" at "5m": [BLIND, "2x10"] [SEES, "2x10"];
        Gone "the balancer is gone" at "8m": [BLIND, "0x5 stale"] [SEES, "2x10"];
        Reset "one minute" at "5m": [BLIND, "2x2 0 2 0 2"] [SEES, "2x10"];
    }
    ScaledAppDnsStale {
        Fires "the API server is away" at "6m": [AGE, "0+60x10"] => DNS, "DNS server scaledapp-system/dns-0 answers with old addresses";
        Fires "no balancer is healthy" at "6m": [AGE, "1x10"] [STALE, "0+5x10"] => DNS, "DNS server scaledapp-system/dns-0 answers with old addresses";
        Below "fifty seconds" at "6m": [AGE, "50x10"] [STALE, "0x10"];
        NoTraffic "no query" at "6m": [AGE, "1x10"] [STALE, "0x10"];
        Gone "the server is gone" at "10m": [AGE, "0+60x6 stale"];
        Reset "a restarted server" at "9m": [AGE, "1x10"] [STALE, "90x5 0x5"];
    }
    ScaledAppOperatorAbsent {
        Fires "no replica leads" at "6m": [LEADER[0], "0x10"] [LEADER[1], "0x10"] => &[], "No operator of ScaledApp leads in scaledapp-system, or more than one";
        Fires "two lead" at "6m": [LEADER[0], "1x10"] [LEADER[1], "1x10"] => &[], "No operator of ScaledApp leads in scaledapp-system, or more than one";
        Below "one leads" at "6m": [LEADER[0], "1x10"] [LEADER[1], "0x10"];
        NoTraffic "another release leads" at "6m": ["scaledapp_operator_leader{namespace=\"other\"}", "1x10"] => &[], "No operator of ScaledApp leads in scaledapp-system, or more than one";
        Gone "all replicas are gone" at "12m": [LEADER[0], "1x5 stale"] => &[], "No operator of ScaledApp leads in scaledapp-system, or more than one";
        Reset "another replica takes over" at "8m": [LEADER[0], "1x4 0x10"] [LEADER[1], "0x5 1x9"];
    }
    ScaledAppOperatorLagging {
        Fires "the API server is paused" at "25m": [WATCH, "0+60x30"] => OPERATOR, "Operator scaledapp-system/op-0 cannot keep up";
        Fires "a right is missing" at "25m": [WATCH, "5x30"] [GOOD, "0+90x30"] [BAD, "0+10x30"] => OPERATOR, "Operator scaledapp-system/op-0 cannot keep up";
        Below "four passes in a hundred" at "25m": [WATCH, "590x30"] [GOOD, "0+96x30"] [BAD, "0+4x30"];
        NoTraffic "no pass" at "25m": [WATCH, "5x30"] [GOOD, "0x30"] [BAD, "0x30"];
        Gone "the operator is gone" at "40m": [WATCH, "0+60x25 stale"];
        Reset "a restarted operator" at "25m": [WATCH, "0+60x10 0+60x9"] [GOOD, "0+100x10 0+100x20"] [BAD, "9x10 0x20"];
    }
}
