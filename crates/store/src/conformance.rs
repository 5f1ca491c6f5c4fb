//! What every store must do. `taskmint_store::conformance!(open)` turns it into tests, where
//! `async fn open(retention: Retention) -> (impl Store, impl Sized)` makes an empty store and
//! whatever must live as long as it (a folder).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code, compiled into the tests of stores alone"
)]

mod commits;
mod journal;
mod lists;
mod live;
mod log;
mod race;
mod registry;
pub mod sample;
mod sweep;
mod tasks;

pub use commits::*;
pub use journal::*;
pub use lists::*;
pub use live::*;
pub use log::*;
pub use race::*;
pub use registry::*;
pub use sweep::*;
pub use tasks::*;

use crate::Retention;

/// How much the stores under test keep: little, so that the bounds are reached.
pub const RETENTION: Retention = Retention {
    log: 20,
    denials: 8,
};

/// Tests a store: see the module's text.
#[macro_export]
macro_rules! conformance {
    ($open:path) => {
        $crate::conformance! { @ $open,
            a_commit_is_all_or_nothing,
            a_commit_sees_its_own_changes,
            every_expectation_is_checked,
            a_passed_deadline_is_no_live_task,
            ends_are_final,
            changes_that_break_an_invariant_are_refused,
            a_cascade_is_one_commit,
            the_longest_credential_and_the_promise_are_remembered,
            a_token_is_consumed_by_one_key,
            requests_are_scoped,
            requests_are_counted_by_caller,
            one_of_many_commits_on_a_version_wins,
            one_of_many_equal_requests_is_new,
            sequence_numbers_have_no_gap,
            no_mint_lands_after_an_end,
            a_place_is_handed_out_once,
            snapshots_match_their_position,
            every_field_of_a_task_comes_back,
            children_come_oldest_first,
            pages_cover_everything_once,
            every_filter_filters,
            deadlines_come_earliest_first,
            what_a_node_holds_is_found,
            live_tasks_are_counted,
            the_last_expiry_is_found,
            issuances_come_in_order,
            withdrawn_certificates_are_found,
            a_bucket_is_read_alone,
            suspended_tasks_come_back,
            the_log_resumes_anywhere,
            positions_are_published,
            places_of_another_log_read_ended,
            entries_come_back,
            nodes_come_back,
            tokens_come_back,
            authorities_come_back_oldest_first,
            the_bundle_counts_up,
            bars_hold_until_lifted,
            audit_records_are_chained,
            the_newest_denials_are_kept,
            a_sweep_takes_whole_buckets,
            a_sweep_keeps_the_newest_records,
            a_floor_moves_once,
        }
    };
    (@ $open:path, $($test:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() {
            let (store, _keep) = $open($crate::conformance::RETENTION).await;
            $crate::conformance::$test(&std::sync::Arc::new(store)).await;
        }
    )* };
}
