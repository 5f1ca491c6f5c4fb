//! Lines for a shell to evaluate.

use std::io::{self, Write as _};

/// Prints them, then leaves standard output to nobody: `$(taskmint dev &)` waits for its end.
pub(super) fn print(variables: &[(&str, String)]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, value) in variables {
        writeln!(out, "export {name}={}", quote(value))?;
    }
    out.flush()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(())
}

/// As any shell reads it back.
fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@%".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for value in ["/tmp/x", "unix:/a b/c", "it's", "$(reboot)`;", "", "é\n*"] {
            let script = format!("export X={}; printf %s \"$X\"", quote(value));
            let shell = std::process::Command::new("sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), value);
        }
    }
}
