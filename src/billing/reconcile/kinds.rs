//! Every kind of difference, by its stable name: runbooks, alarms and metrics refer to them.
//!
//! Always holds: the names are those of the queries and of the comparisons beside this file; a test compares them.

/// What a kind of difference is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A balance, an entry or a settlement is wrong. Nothing starts on a restored database that has one.
    Money,
    /// Records of the work disagree with each other; every credit is still explained.
    Work,
    /// A charged video's file is not as it was stored.
    Files,
    /// A provider tells another story than our attempts.
    Providers,
}

use About::{Files, Money, Providers, Work};

/// Every kind, in the order of the comparisons.
pub const KINDS: [(&str, About); 46] = [
    ("wallet", Money),
    ("batch_hold", Money),
    ("hold_of_unfinished_batch", Money),
    ("hold_of_finished_batch", Money),
    ("hold_without_batch", Money),
    ("charge_of_finished_batch", Money),
    ("settled_videos", Money),
    ("provider_loss_of_batch", Money),
    ("entry_without_wallet", Money),
    ("balance_continuity", Money),
    ("held_continuity", Money),
    ("succeeded_video_not_charged", Money),
    ("failed_video_not_refunded", Money),
    ("open_video_settled", Money),
    ("settlement_without_video", Money),
    ("refund_not_in_ledger", Money),
    ("refund_amount", Money),
    ("video_refunds", Money),
    ("batch_price", Money),
    ("batch_frozen", Money),
    ("video_price_offset", Money),
    ("batch_videos", Work),
    ("batch_succeeded", Work),
    ("batch_failed", Work),
    ("finished_batch_events", Work),
    ("key_without_batch", Work),
    ("lane_total", Work),
    ("lane_waiting", Work),
    ("lane_settled", Work),
    ("lane_in_flight", Work),
    ("video_attempts_made", Work),
    ("video_delivered_attempts", Work),
    ("idle_video_live_attempt", Work),
    ("attempt_without_video", Work),
    ("attempt_without_handle", Work),
    ("unresolved_attempt_without_loss", Money),
    ("late_success_without_loss", Money),
    ("loss_without_unresolved_attempt", Money),
    ("loss_not_in_ledger", Money),
    ("file_missing", Files),
    ("file_size", Files),
    ("file_hash", Files),
    ("provider_job_without_attempt", Providers),
    ("provider_job_lost", Providers),
    ("provider_job_not_made", Providers),
    ("attempt_unknown_to_provider", Providers),
];

/// What a kind is about. A kind that nobody entered here is taken for the worst.
pub fn about(kind: &str) -> About {
    KINDS.iter().find(|(name, _)| *name == kind).map_or(Money, |(_, about)| *about)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{About, KINDS};

    /// What the queries select as a kind: `select 'name'` at the start of a part, and the lanes' parts.
    fn asked() -> BTreeSet<String> {
        let queries = [
            include_str!("../../ledger/sql/differences.sql"),
            include_str!("../../ledger/sql/continuity.sql"),
            include_str!("../reconcile.sql"),
            include_str!("records.sql"),
        ];
        let mut names = BTreeSet::new();
        for part in queries.iter().flat_map(|query| query.split("\nselect '").skip(1)) {
            names.insert(part.split('\'').next().unwrap().to_owned());
        }
        // its second half is a column
        assert!(names.remove("lane_"));
        names.extend(["lane_total", "lane_waiting", "lane_settled"].map(str::to_owned));
        names
    }

    #[test]
    fn every_kind_that_a_query_names_is_known_and_none_is_left_over() {
        let known = |(_, about): &&(&str, About)| matches!(about, About::Money | About::Work);
        let known: BTreeSet<String> = KINDS.iter().filter(known).map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(asked(), known);
        assert_eq!(KINDS.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), KINDS.len());
    }
}
