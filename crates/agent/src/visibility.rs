//! Which tasks a process sees (P1). Pure: what is bound to whom comes in, who sees what goes out.

use taskmint_model::TaskId;

/// How far a task reaches from the process that it is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The process alone.
    Process,
    /// Its descendants too.
    Tree,
}

/// One process on the way up from a caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Explicit tasks bound to it that have not ended, suspended ones included.
    pub(crate) bound: Vec<(TaskId, Reach)>,
    /// Somebody else has bound a task to it, perhaps one that has ended since.
    pub(crate) confined: bool,
}

/// The tasks that a caller sees; `steps` begins with the caller itself, nearest first.
///
/// The nearest process that holds anything decides, and hides all farther ones: otherwise a tool
/// started for one task reads the keys of the tasks around it, and a sub-agent with less authority
/// reads its parent's key. For the same reason a process that was confined to a task by somebody
/// else sees nothing beyond it, also once that task has ended: ending the narrow task must not be
/// the way to the wide one.
pub(crate) fn seen(steps: impl IntoIterator<Item = Step>) -> Vec<TaskId> {
    for (distance, step) in steps.into_iter().enumerate() {
        if step.bound.is_empty() && !step.confined {
            continue;
        }
        let reaches = |reach| distance == 0 || reach == Reach::Tree;
        return step
            .bound
            .iter()
            .filter(|(_, reach)| reaches(*reach))
            .map(|(id, _)| *id)
            .collect();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u8) -> TaskId {
        TaskId::from_octets([number; 16])
    }

    /// `p1` is task 1 bound to the process, `t2` task 2 bound to its tree, `!` confined.
    fn step(text: &str) -> Step {
        let mut step = Step::default();
        for word in text.split_whitespace() {
            let number = || word[1..].parse().unwrap();
            match &word[..1] {
                "p" => step.bound.push((task(number()), Reach::Process)),
                "t" => step.bound.push((task(number()), Reach::Tree)),
                _ => step.confined = true,
            }
        }
        step
    }

    /// Processes from the caller up, and the numbers of the tasks that the caller sees.
    fn check(steps: &[&str], expected: &[u8]) {
        let tasks = seen(steps.iter().map(|text| step(text)));
        let expected: Vec<_> = expected.iter().map(|number| task(*number)).collect();
        assert_eq!(tasks, expected, "{steps:?}");
    }

    #[test]
    fn a_process_sees_what_is_bound_to_it_and_the_trees_of_the_nearest_holder() {
        check(&[], &[]);
        check(&["", "", ""], &[]);
        check(&["p1"], &[1]);
        check(&["t1"], &[1]);
        check(&["p1 t2"], &[1, 2]);
        check(&["", "t1"], &[1]);
        check(&["", "", "t1 t2"], &[1, 2]);
        // What is bound to a process is not for its children.
        check(&["", "p1"], &[]);
        check(&["", "p1 t2"], &[2]);
    }

    #[test]
    fn a_nearer_holder_hides_all_farther_ones() {
        check(&["t2", "t1"], &[2]);
        check(&["", "t2", "t1"], &[2]);
        check(&["p2", "t1"], &[2]);
        // A sub-agent with a task of its own can't have a child read its parent's key.
        check(&["", "p2", "t1"], &[]);
    }

    #[test]
    fn who_was_confined_sees_nothing_beyond_after_its_task_ended() {
        check(&["!", "t1"], &[]);
        check(&["", "!", "t1"], &[]);
        check(&["! p2", "t1"], &[2]);
        // A task that a process began for itself hides farther ones only while it lives.
        check(&["", "t1"], &[1]);
    }
}
