//! Tests of the metrics that name apps.

use std::sync::Arc;

use scaledapp_operator::lease::Leadership;
use scaledapp_operator::report::Report;
use scaledapp_runtime::Routes;

use crate::operator::{Operator, good};

fn metrics(operator: &Operator) -> String {
    let report = Report::new("a".to_owned(), Arc::default(), Arc::default());
    report.watches(Arc::clone(&operator.context));
    report.metrics()
}

#[tokio::test]
async fn only_the_leader_says_which_condition_an_app_is_in_and_who_answers_at_its_slots() {
    let mut operator = Operator::new(good());
    operator.pass().await.unwrap();
    operator.sync();
    let text = metrics(&operator);
    let of_app = "namespace=\"default\",app=\"hello\"";
    for kind in [
        "Ready",
        "Updated",
        "Degraded",
        "Progressing",
        "Reconciling",
        "Stalled",
    ] {
        let series = format!("scaledapp_operator_condition{{{of_app},type=\"{kind}\",status=\"");
        assert_eq!(text.matches(&series).count(), 1, "{kind}: {text}");
    }
    for slot in 0..2 {
        let holder = format!("slot_holder{{{of_app},slot=\"{slot}\",own=\"true\"}} 1\n");
        assert!(text.contains(&holder), "{slot}: {text}");
    }
    let context = Arc::get_mut(&mut operator.context).unwrap();
    context.caller.leadership = Leadership::fixed(false);
    let text = metrics(&operator);
    assert!(!text.contains(of_app), "{text}");
    assert!(text.contains("scaledapp_operator_leader 0\n"), "{text}");
}
