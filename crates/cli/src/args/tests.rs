use super::*;
use clap::CommandFactory as _;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_arguments_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn command_lines_of_every_noun_are_understood() {
    let lines = "\
        taskmint dev
        taskmint dev --dir /tmp/x --trust-domain example.org
        taskmint run --purpose p --owner o --ttl 10m --limit 1h --scope a --scope b --audience c -- ls -l
        taskmint run -- sh -c true
        taskmint task begin --purpose p --bind socket --uid 7
        taskmint task begin --admin --entry e --node /taskmint/node/join_token/a
        taskmint task delegate --scope a
        taskmint task list -o json --ended
        taskmint task list --admin --all-kinds --owner ann
        taskmint task show
        taskmint task tree x --admin
        taskmint task extend x --ttl 5m
        taskmint task suspend x --reason r
        taskmint task resume x
        taskmint task complete
        taskmint task fail x
        taskmint task cancel x
        taskmint task revoke x --reason r
        taskmint task watch --admin
        taskmint entry create --spiffe-id /a --selector unix:uid:0 --implicit --descendants=false
        taskmint entry create --file x.toml
        taskmint entry update x --watch=true
        taskmint entry delete x --keep-tasks
        taskmint entry show x
        taskmint entry list --selector unix:uid:0
        taskmint node list
        taskmint node show /taskmint/node/join_token/a
        taskmint node evict n --reason r
        taskmint node ban n
        taskmint node unban n
        taskmint token create --node a --ttl 5m --selector a:b
        taskmint token list
        taskmint token delete ab
        taskmint bar list --node n
        taskmint bar lift e n p
        taskmint bundle show --format pem
        taskmint authority list
        taskmint authority prepare ca
        taskmint authority activate x
        taskmint authority retire x
        taskmint svid fetch x509 --write /tmp/x
        taskmint svid fetch jwt --audience a
        taskmint svid show x.pem
        taskmint svid verify x.pem --bundle b.json --status --explain
        taskmint explain x
        taskmint denials --limit 3
        taskmint audit list --from 5 --limit 10
        taskmint audit verify
        taskmint watchers
        taskmint status --admin-socket /x/admin.sock
        taskmint config check server.toml --server
        taskmint config show agent.toml --origin -s a=b
        taskmint backup /b
        taskmint restore /b /s
        taskmint completions bash";
    for line in lines.lines() {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn a_typo_is_answered_with_what_was_meant() {
    for (line, meant) in [
        ("taskmint taks list", "'task'"),
        ("taskmint task revok x", "'revoke'"),
        ("taskmint entry create --selectr a:b", "'--selector'"),
    ] {
        let text = parse(line).unwrap_err().to_string();
        assert!(text.contains(meant), "{text}");
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    let table = [
        ("taskmint run", ErrorKind::MissingRequiredArgument),
        ("taskmint run --ttl 10 -- ls", ErrorKind::ValueValidation),
        ("taskmint task extend x", ErrorKind::MissingRequiredArgument),
        ("taskmint authority prepare x", ErrorKind::InvalidValue),
        ("taskmint status -o yaml", ErrorKind::InvalidValue),
        (
            "taskmint entry create --file x --spiffe-id /a",
            ErrorKind::ArgumentConflict,
        ),
        (
            "taskmint config check x --server --agent",
            ErrorKind::ArgumentConflict,
        ),
        (
            "taskmint svid fetch jwt",
            ErrorKind::MissingRequiredArgument,
        ),
    ];
    for (line, kind) in table {
        assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
    }
}

#[test]
fn what_follows_the_dashes_is_the_commands_own() {
    let cli = parse("taskmint run --purpose p -- ls -o json --help").unwrap();
    let Command::Run(run) = cli.command else {
        panic!("not a run")
    };
    assert_eq!(run.command(), ["ls", "-o", "json", "--help"]);
    assert_eq!(cli.global.output, crate::output::Format::Table);
}

#[test]
fn help_tells_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    assert!(help.contains("125  run: no task could be begun"), "{help}");
}
