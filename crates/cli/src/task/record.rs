//! A task as it is printed.

use taskmint_wire::task::{Binding, EndResponse, Kind, State, Task};

use crate::output::{Column, Field, Record};

pub(super) const COLUMNS: &[Column] = &[
    ("TASK", "id"),
    ("STATE", "state"),
    ("KIND", "kind"),
    ("SPIFFE ID", "spiffe_id"),
    ("OWNER", "owner"),
    ("DEADLINE", "deadline"),
    ("PURPOSE", "purpose"),
];

/// Of a stream: what has a constant width comes first.
pub(super) const WATCHED: &[Column] = &[
    ("TASK", "id"),
    ("DEADLINE", "deadline"),
    ("STATE", "state"),
    ("SPIFFE ID", "spiffe_id"),
    ("PURPOSE", "purpose"),
];

/// All that is known of a task.
pub(crate) fn record(task: &Task) -> Record {
    let place = task.place.as_ref().map(|place| {
        Record::new()
            .octets("log_id", place.log_id.clone())
            .number("bucket", place.bucket)
            .number("index", place.index)
    });
    let suspension = task.suspension.as_ref().map(|suspension| {
        Record::new()
            .text("by", &suspension.by)
            .instant("at", suspension.at_ms)
            .text("reason", &suspension.reason)
            .flag("inherited", suspension.inherited)
    });
    let ending = task.ending.as_ref().map(|ending| {
        Record::new()
            .instant("at", ending.at_ms)
            .text("cause", &ending.cause)
            .text("by", &ending.by)
    });
    Record::new()
        .text("id", &task.id)
        .text("state", state(task.state()))
        .text("kind", kind(task.kind()))
        .text("spiffe_id", &task.spiffe_id)
        .text("owner", &task.owner)
        .text("purpose", &task.purpose)
        .list("scopes", &task.scopes)
        .list("audiences", &task.audiences)
        .instant("opened", task.opened_at_ms)
        .instant("deadline", task.deadline_ms)
        .instant("limit", task.limit_ms)
        .text("root_id", &task.root_id)
        .text("parent_id", &task.parent_id)
        .number("depth", task.depth)
        .number("children", task.children)
        .number("max_children", task.max_children)
        .number("max_depth", task.max_depth)
        .text("entry_id", &task.entry_id)
        .text("binding", binding(task.binding()))
        .text("node_id", &task.node_id)
        .text("process", &task.process)
        .text("continues", &task.continues)
        .with("place", Field::Record(place))
        .with("suspension", Field::Record(suspension))
        .with("ending", Field::Record(ending))
        .number("version", task.version)
}

/// An end.
pub(crate) fn ended(response: &EndResponse) -> Record {
    Record::new()
        .with("task", Field::Record(response.task.as_ref().map(record)))
        .number("position", response.position)
        .with(
            "receipt",
            Field::Record(response.receipt.as_ref().map(super::receipt::record)),
        )
}

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "",
        State::Live => "live",
        State::Suspended => "suspended",
        State::Ended => "ended",
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "",
        Kind::Explicit => "explicit",
        Kind::Implicit => "implicit",
        Kind::Node => "node",
        Kind::Server => "server",
    }
}

fn binding(binding: Binding) -> &'static str {
    match binding {
        Binding::Unspecified => "",
        Binding::Process => "process",
        Binding::Tree => "tree",
        Binding::Socket => "socket",
        Binding::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Captured, Format};
    use taskmint_wire::task::{Ending, Place};

    fn task() -> Task {
        Task {
            id: "0198c0de-0000-7000-8000-000000000001".to_owned(),
            spiffe_id: "spiffe://example.org/agent/a".to_owned(),
            purpose: "count the orders".to_owned(),
            scopes: vec!["orders:read".to_owned()],
            deadline_ms: 1_700_000_000_000,
            state: State::Ended.into(),
            kind: Kind::Explicit.into(),
            binding: Binding::Tree.into(),
            place: Some(Place {
                log_id: vec![7; 8],
                bucket: 472_222,
                index: 4096,
            }),
            ending: Some(Ending {
                at_ms: 5,
                cause: "completed".to_owned(),
                by: "holder".to_owned(),
            }),
            version: 2,
            ..Default::default()
        }
    }

    #[test]
    fn a_task_has_its_shape() {
        let json = record(&task()).json();
        assert_eq!(json["state"], "ended");
        assert_eq!(json["kind"], "explicit");
        assert_eq!(json["binding"], "tree");
        assert_eq!(json["deadline_ms"], 1_700_000_000_000_u64);
        assert_eq!(json["deadline"], "2023-11-14T22:13:20Z");
        assert_eq!(json["place"]["log_id"], "0707070707070707");
        assert_eq!(json["ending"]["cause"], "completed");
        assert!(json["suspension"].is_null() && json["parent_id"].is_null());
    }

    #[test]
    fn a_list_of_tasks_has_its_columns() {
        let captured = Captured::default();
        captured
            .output(Format::Table)
            .list(COLUMNS, &[record(&task())])
            .unwrap();
        let text = captured.text();
        let expected = " TASK                                  STATE  KIND      SPIFFE ID                     \
                        OWNER  DEADLINE              PURPOSE\n \
                        0198c0de-0000-7000-8000-000000000001  ended  explicit  \
                        spiffe://example.org/agent/a  -      2023-11-14T22:13:20Z  count the orders\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_end_tells_its_position_in_the_log() {
        let response = EndResponse {
            task: Some(task()),
            position: 12,
            receipt: None,
        };
        let json = ended(&response).json();
        assert_eq!(
            (&json["position"], &json["task"]["state"]),
            (&12.into(), &"ended".into())
        );
    }
}
