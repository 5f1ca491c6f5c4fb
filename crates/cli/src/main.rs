//! `taskmint`.

fn main() -> std::process::ExitCode {
    taskmint_cli::main()
}
