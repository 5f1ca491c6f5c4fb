//! Exit codes, and the failure that carries one.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use taskmint_client::{CallError, ConnectError, in_words};
use taskmint_model::Timestamp;
use tonic::Code;

/// Done.
pub const OK: u8 = 0;
/// Failed, for another reason than those below.
pub const FAILED: u8 = 1;
/// Denied: the caller may not, or a credential is refused.
pub const DENIED: u8 = 2;
/// What was named does not exist.
pub const NOT_FOUND: u8 = 3;
/// Server or agent can't be reached, or gave no answer.
pub const UNREACHABLE: u8 = 4;
/// `--wait`: the task has ended, but not everybody has heard of it in time.
pub const NOT_HEARD: u8 = 5;
/// The command line, or something written on it, is wrong.
pub const USAGE: u8 = 64;
/// `taskmint run`: no task could be begun, so the command was not run.
pub const NOT_BEGUN: u8 = 125;
/// `taskmint run`: the command is there but can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// `taskmint run`: there is no such command.
pub const NO_COMMAND: u8 = 127;

/// Shown at the end of `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    failed
  2    denied, or a credential is refused
  3    not found
  4    server or agent can't be reached
  5    --wait: the task has ended, but not all who are waited for have heard of it in time
  64   wrong command line
  125  run: no task could be begun, the command was not run
  126  run: the command can't be executed
  127  run: there is no such command
  else run: the command's own, 128 + n after signal n

Sockets come from flags, then from the environment (TASKMINT_ADMIN_SOCKET, TASKMINT_TASK_SOCKET,
TASKMINT_REVOCATION_SOCKET, SPIFFE_ENDPOINT_SOCKET), then from /run/taskmint.";

/// Why a command ends without having done what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// A peer refused, or gave no answer.
    Call(Box<CallError>),
    /// There is no peer.
    Connect(ConnectError),
    /// The command line is wrong.
    Usage(String),
    /// Nothing of that name.
    NotFound(String),
    /// A credential does not count: the reason and the words.
    Refused {
        /// Stable reason.
        reason: String,
        /// For people.
        message: String,
    },
    /// A task has ended, and somebody who is waited for has not heard of it in time.
    NotHeard {
        /// Who.
        names: Vec<String>,
        /// From when on they refuse the task all the same, in milliseconds since 1970.
        dead_everywhere_by_ms: u64,
    },
    /// Anything else.
    Other(anyhow::Error),
    /// Everything was said already, or nobody listens any more.
    Silent(u8),
    /// With another exit code than its own.
    Coded(u8, Box<Failure>),
}

impl Failure {
    /// A wrong command line.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// The same failure, ending the process with `code`.
    #[must_use]
    pub fn coded(self, code: u8) -> Self {
        Self::Coded(code, Box::new(self))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Call(error) => of_call(error.code),
            Self::Connect(_) => UNREACHABLE,
            Self::Usage(_) => USAGE,
            Self::NotFound(_) => NOT_FOUND,
            Self::Refused { .. } => DENIED,
            Self::NotHeard { .. } => NOT_HEARD,
            Self::Other(_) => FAILED,
            Self::Silent(code) | Self::Coded(code, _) => *code,
        }
    }

    /// For people; colours included, to be stripped where they are not wanted. Empty if there is
    /// nothing to say.
    pub fn text(&self) -> String {
        let mut text = match self {
            Self::Silent(_) => return String::new(),
            Self::Coded(_, failure) => return failure.text(),
            _ => format!("\u{1b}[1;31merror:\u{1b}[0m {}", self.message()),
        };
        match self {
            Self::Call(error) => {
                if let Some(reason) = &error.reason {
                    push(&mut text, format_args!(" [{reason}]"));
                }
                if let Some(fix) = &error.fix {
                    push(&mut text, format_args!("\n  fix: {fix}"));
                }
                if let Some(facts) = &error.facts {
                    push(&mut text, format_args!("\n  attested as: {facts}"));
                }
                if let Some(id) = &error.denial {
                    push(
                        &mut text,
                        format_args!(
                            "\n  denial: {id} (an operator sees more: taskmint explain {id})"
                        ),
                    );
                }
            }
            Self::Connect(_) => push(
                &mut text,
                format_args!(
                    "\n  fix: start it (`taskmint dev` starts all), or name its socket by flag or environment; see --help"
                ),
            ),
            Self::Refused { reason, .. } => push(&mut text, format_args!(" [{reason}]")),
            Self::NotHeard { names, .. } => {
                for name in names {
                    push(&mut text, format_args!("\n  {name}"));
                }
            }
            _ => {}
        }
        text
    }

    /// How long to wait before the same is tried again, where the peer said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.inner() {
            Self::Call(error) => error.retry_after,
            _ => None,
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut error = json!({ "exit_code": self.code(), "message": self.message() });
        if let (Some(wait), Some(members)) = (self.retry_after(), error.as_object_mut()) {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            members.insert("retry_after_ms".to_owned(), millis.into());
        }
        let mut put = |key: &str, value: Option<String>| {
            if let (Some(members), Some(value)) = (error.as_object_mut(), value) {
                members.insert(key.to_owned(), Value::String(value));
            }
        };
        match self.inner() {
            Self::Call(call) => {
                put("reason", call.reason.clone());
                put("fix", call.fix.clone());
                put("denial_id", call.denial.map(|id| id.to_string()));
                put("facts", call.facts.clone());
            }
            Self::Refused { reason, .. } => put("reason", Some(reason.clone())),
            Self::NotHeard { .. } => put("reason", Some("NOT_HEARD".to_owned())),
            _ => {}
        }
        json!({ "error": error })
    }

    fn inner(&self) -> &Self {
        match self {
            Self::Coded(_, failure) => failure.inner(),
            other => other,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Call(error) if error.message.is_empty() => error.code.description().to_owned(),
            Self::Call(error) => error.message.clone(),
            Self::Connect(error) => in_words(error),
            Self::Usage(text) | Self::NotFound(text) => text.clone(),
            Self::Refused { message, .. } => message.clone(),
            Self::NotHeard {
                dead_everywhere_by_ms,
                ..
            } => {
                let by = Timestamp::from_millis(*dead_everywhere_by_ms);
                format!("the task has ended, but not all have heard; dead everywhere by {by}")
            }
            Self::Other(error) => format!("{error:#}"),
            Self::Silent(_) => String::new(),
            Self::Coded(_, failure) => failure.message(),
        }
    }
}

fn of_call(code: Code) -> u8 {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => DENIED,
        Code::NotFound => NOT_FOUND,
        Code::Unavailable | Code::DeadlineExceeded => UNREACHABLE,
        Code::InvalidArgument => USAGE,
        _ => FAILED,
    }
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing into a string can't fail.
    text.write_fmt(more).ok();
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        CallError::from(status).into()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Of writing the output: whoever closed it wants no more, and that is no failure.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::Silent(OK)
        } else {
            Self::Other(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskmint_wire::Denied;

    fn denied(code: Code) -> Failure {
        let denied = Denied::new(code, "NO_MATCHING_ENTRY", "no entry matches")
            .fix("ask an operator")
            .id("0198c0de-0000-7000-8000-000000000000".parse().unwrap());
        tonic::Status::from(denied).into()
    }

    #[test]
    fn each_outcome_has_its_exit_code() {
        let table = [
            (Code::PermissionDenied, DENIED),
            (Code::Unauthenticated, DENIED),
            (Code::NotFound, NOT_FOUND),
            (Code::Unavailable, UNREACHABLE),
            (Code::DeadlineExceeded, UNREACHABLE),
            (Code::InvalidArgument, USAGE),
            (Code::FailedPrecondition, FAILED),
            (Code::Internal, FAILED),
        ];
        for (code, exit) in table {
            assert_eq!(denied(code).code(), exit, "{code:?}");
        }
        assert_eq!(Failure::usage("x").code(), USAGE);
        assert_eq!(Failure::usage("x").coded(NOT_BEGUN).code(), NOT_BEGUN);
    }

    #[test]
    fn a_denial_tells_reason_fix_and_id() {
        let text = anstream::adapter::strip_str(&denied(Code::PermissionDenied).text()).to_string();
        assert_eq!(
            text,
            "error: no entry matches [NO_MATCHING_ENTRY]\n  fix: ask an operator\n  denial: \
             0198c0de-0000-7000-8000-000000000000 (an operator sees more: taskmint explain \
             0198c0de-0000-7000-8000-000000000000)"
        );
        let json = denied(Code::PermissionDenied).coded(NOT_BEGUN).json();
        assert_eq!(json["error"]["reason"], "NO_MATCHING_ENTRY");
        assert_eq!(json["error"]["fix"], "ask an operator");
        assert_eq!(json["error"]["exit_code"], 125);
        assert_eq!(json["error"].get("retry_after_ms"), None);
    }

    #[test]
    fn when_to_try_again_is_a_number_for_programs() {
        let denied = Denied::new(Code::ResourceExhausted, "RATE_LIMITED", "too many calls");
        let status = tonic::Status::from(denied.retry_after(Duration::from_millis(40)));
        let failure = Failure::from(status).coded(NOT_BEGUN);
        assert_eq!(failure.json()["error"]["retry_after_ms"], 40);
    }

    #[test]
    fn a_closed_output_is_no_failure() {
        let closed = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!((closed.code(), closed.text()), (OK, String::new()));
    }
}
