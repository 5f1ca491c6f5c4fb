//! Claims of a token as a protobuf structure.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Map;

/// All claims. A whole number beyond 2^53 loses its last digits: the structure knows only doubles.
pub(crate) fn to_struct(claims: &Map<String, serde_json::Value>) -> Struct {
    let fields: BTreeMap<_, _> = claims
        .iter()
        .map(|(name, value)| (name.clone(), to_value(value)))
        .collect();
    Struct { fields }
}

fn to_value(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(to_value).collect(),
        }),
        Json::Object(members) => Kind::StructValue(to_struct(members)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_claim_has_its_counterpart() {
        let claims =
            json!({"a": null, "b": true, "c": 1.5, "d": "x", "e": [1, "y"], "f": {"g": 2}});
        let fields = to_struct(claims.as_object().unwrap()).fields;
        let kind = |name: &str| fields[name].kind.clone().unwrap();
        assert_eq!(kind("b"), Kind::BoolValue(true));
        assert_eq!(kind("c"), Kind::NumberValue(1.5));
        assert_eq!(kind("d"), Kind::StringValue("x".to_owned()));
        assert!(matches!(kind("e"), Kind::ListValue(list) if list.values.len() == 2));
        assert!(matches!(kind("f"), Kind::StructValue(of) if of.fields.contains_key("g")));
        assert_eq!(kind("a"), Kind::NullValue(0));
    }
}
