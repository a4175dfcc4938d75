//! Schemas of the values that have their own grammar.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Duration, Quantity};

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The schema has a pattern instead of a rule, because the API server's message shows a pattern.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 20,
            "pattern": "^[0-9]{1,9}(ms|s|m|h)$",
        })
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// Text or a number, as in Kubernetes' own objects, where `cpu: 0.5` is common.
    /// `x-kubernetes-int-or-string` accepts no fractions, and there is no equivalent for
    /// numbers. So the schema first accepts any value, and then excludes what is neither text
    /// nor a number.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-preserve-unknown-fields": true,
            "pattern": r"^([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?$",
            "minimum": 0,
            "maxProperties": 0,
            "maxItems": 0,
            "not": {"enum": [true, false, {}, []]},
        })
    }
}

/// The words of a command line. The list is bounded, because the API server estimates the cost of a
/// rule from the bounds of the values that the rule reads.
pub(crate) fn words(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 32768}})
}

/// An object that is stored unchanged, with any fields.
pub(crate) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
