//! The audit at the end of every test: money, queue, files, sessions, and the provider's own book against ours.
//!
//! The questions are asked in plain SQL as the owner, apart from the code under test. All findings are told at once.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use freezeframe::emulator::Book;
use freezeframe::ledger;
use ring::digest;
use sqlx::{PgPool, Row};

/// Each answers one row per finding, as text.
const MUST_BE_EMPTY: [(&str, &str); 15] = [
    ("jobs left in the queue", "select job_type || ' ' || id || ' ' || status from apalis.jobs"),
    (
        "videos that never ended",
        "select id || ' ' || state from videos where state not in ('succeeded', 'failed')",
    ),
    ("batches that never ended", "select id || ' ' || status from batches where finished_at is null"),
    (
        "holds of finished or unknown batches",
        "select h.batch_id || ' ' || h.held from batch_holds h left join batches b on b.id = h.batch_id
         where h.held <> 0 and (b.id is null or b.finished_at is not null)",
    ),
    (
        "videos finished without a settlement, or settled without being finished",
        "select coalesce(v.id, s.video_id) || ' ' || coalesce(v.state::text, 'none') || ' ' || coalesce(s.outcome::text, 'none')
         from (select * from videos where state in ('succeeded', 'failed')) v full join settlements s on s.video_id = v.id
         where v.id is null or s.video_id is null
            or (v.state = 'succeeded') <> (s.outcome = 'charged') or s.amount <> v.price_credits",
    ),
    (
        "batches whose charge is not the price of their successes, or whose refund is not the rest",
        "select b.id || ' charged ' || h.charged || ' refunded ' || h.refunded
         from batches b
             join (select batch_id, sum(charged) as charged, sum(refunded) as refunded from batch_holds group by 1) h
                 on h.batch_id = b.id
             join (select batch_id, coalesce(sum(price_credits) filter (where state = 'succeeded'), 0) as earned,
                     coalesce(sum(price_credits) filter (where state = 'failed'), 0) as owed
                 from videos group by 1) v on v.batch_id = b.id
         where b.finished_at is not null and (h.charged <> v.earned or h.refunded <> v.owed)",
    ),
    (
        "batches whose counters do not say what their videos say",
        "select b.id from batches b join (
             select batch_id, count(*) as total, count(*) filter (where state = 'succeeded') as succeeded,
                 count(*) filter (where state = 'failed') as failed from videos group by 1) v on v.batch_id = b.id
         where (b.total, b.succeeded, b.failed) is distinct from (v.total::int, v.succeeded::int, v.failed::int)",
    ),
    (
        "lanes whose counters do not say what their videos say",
        "select l.batch_id || ' ' || l.model from batch_lanes l join (
             select batch_id, model, count(*) as total, count(*) filter (where state = 'waiting') as waiting,
                 count(*) filter (where state in ('succeeded', 'failed')) as settled from videos group by 1, 2) v
             on v.batch_id = l.batch_id and v.model = l.model
         where (l.total, l.waiting, l.settled) is distinct from (v.total::int, v.waiting::int, v.settled::int)",
    ),
    (
        "videos counted at an account that are not under way there",
        "select coalesce(r.batch_id, v.batch_id) || ' ' || coalesce(r.provider, v.provider)
         from (select * from lane_routes where in_flight <> 0) r full join (
             select batch_id, model, provider, count(*) as videos from videos
             where state in ('released', 'running') group by 1, 2, 3) v
             on v.batch_id = r.batch_id and v.model = r.model and v.provider = r.provider
         where r.in_flight is distinct from v.videos::int",
    ),
    ("batches without videos", "select id from batches b where not exists (select from videos v where v.batch_id = b.id)"),
    (
        "videos, holds, freezes or keys without their batch",
        "select 'video ' || id from videos v where not exists (select from batches b where b.id = v.batch_id)
         union all
         select 'ledger ' || id from credit_ledger l
             where batch_id is not null and not exists (select from batches b where b.id = l.batch_id)
         union all
         select 'key ' || key from idempotency_keys k
             where not exists (select from batches b where 'bat_' || b.id = k.answer ->> 'batch_id')",
    ),
    (
        "attempts still open although their video ended",
        "select a.video_id || ' ' || a.n || ' ' || a.state from attempts a join videos v on v.id = a.video_id
         where a.finished_at is null and v.state in ('succeeded', 'failed')",
    ),
    (
        "entries whose balance does not follow from the entry before",
        "select 'entry ' || id from (
             select id, balance_before, lag(balance_after) over (partition by tenant_id, source order by id) as previous
             from credit_ledger where balance_of = 'available') l
         where previous <> balance_before",
    ),
    (
        "losses of a batch that do not follow from each other, or from what is booked of its attempts",
        "select 'entry ' || id from (
             select id, balance_before, lag(balance_after, 1, 0::bigint) over (partition by batch_id order by id) as previous
             from credit_ledger where act = 'loss') l
         where previous <> balance_before
         union all
         select 'batch ' || coalesce(p.batch_id, l.batch_id) from
             (select batch_id, sum(credits) as credits from provider_losses group by 1) p full join
             (select batch_id, sum(amount) as credits from credit_ledger where act = 'loss' group by 1) l
             on l.batch_id = p.batch_id
         where coalesce(p.credits, 0) <> coalesce(l.credits, 0)",
    ),
    (
        "unresolved attempts without their loss, and losses of attempts whose outcome is known",
        "select coalesce(a.video_id, l.video_id) || ' ' || coalesce(a.n, l.n) from
             (select video_id, n from attempts where state = 'unresolved'
              union select video_id, n from late_looks where finding = 'succeeded') a
             full join provider_losses l on l.video_id = a.video_id and l.n = a.n
         where a.video_id is null or l.video_id is null",
    ),
];

/// What an audit looks at.
pub struct Audit<'a> {
    pub pool: &'a PgPool,
    pub book: &'a Book,
    pub videos_dir: &'a Path,
    /// Questions (by a part of their name) that this test answers itself.
    pub excused: &'a [&'static str],
}

impl Audit<'_> {
    /// Everything that is wrong.
    pub async fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        self.ask_everything(&mut findings).await;
        self.books(&mut findings).await;
        self.files(&mut findings).await;
        self.providers_book(&mut findings).await;
        findings.retain(|finding| !self.excused.iter().any(|excuse| finding.contains(excuse)));
        findings
    }

    async fn ask_everything(&self, findings: &mut Vec<String>) {
        for (what, question) in MUST_BE_EMPTY {
            let rows: Vec<String> =
                sqlx::query_scalar(question).fetch_all(self.pool).await.unwrap_or_else(|e| vec![e.to_string()]);
            findings.extend(
                (!rows.is_empty()).then(|| format!("{what}: {} such as {:?}", rows.len(), &rows[..rows.len().min(5)])),
            );
        }
    }

    async fn books(&self, findings: &mut Vec<String>) {
        let mut conn = self.pool.acquire().await.unwrap();
        let books = ledger::books(&mut conn).await.unwrap();
        if books.sum != 0 {
            findings.push(format!("the books do not sum to zero: {books:?}"));
        }
        let chain = ledger::chain::verify(&mut conn, &[], &[]).await.unwrap();
        if !chain.is_clean() {
            findings.push(format!("the ledger does not agree with its chain: {:?}", chain.findings));
        }
        let differences = ledger::differences(&mut conn).await.unwrap();
        if !differences.is_empty() {
            findings.push(format!("the ledger has differences: {differences:?}"));
        }
    }

    /// A video charged is a file stored, of the size and hash that the customer is told.
    async fn files(&self, findings: &mut Vec<String>) {
        let rows = sqlx::query(
            "select id, output_key, output_bytes, output_sha256, thumbnail_bytes, thumbnail_sha256
                 from videos where state = 'succeeded' and purged_at is null",
        )
        .fetch_all(self.pool)
        .await
        .unwrap();
        for row in rows {
            let (id, key): (String, String) = (row.get(0), row.get(1));
            let (bytes, sha256): (i64, Vec<u8>) = (row.get(2), row.get(3));
            let picture: (Option<i32>, Option<Vec<u8>>) = (row.get(4), row.get(5));
            if let (Some(bytes), Some(sha256)) = picture {
                let file = std::fs::read(self.videos_dir.join(key.replace(".mp4", ".thumbnail"))).unwrap_or_default();
                if file.len() != bytes as usize || digest::digest(&digest::SHA256, &file).as_ref() != sha256 {
                    findings.push(format!("the picture of video {id} is not the one that the customer is told of"));
                }
            }
            match std::fs::read(self.videos_dir.join(&key)) {
                Ok(file) if file.len() as i64 != bytes => {
                    findings.push(format!("the file of video {id} has {} bytes, not {bytes}", file.len()));
                }
                Ok(file) if digest::digest(&digest::SHA256, &file).as_ref() != sha256 => {
                    findings.push(format!("the file of video {id} has another hash than the customer is told"));
                }
                Ok(_) => {}
                Err(error) => findings.push(format!("video {id} is charged and its file {key} is not there: {error}")),
            }
        }
    }

    /// Jobs accepted = videos delivered + attempts that failed after acceptance + declared unknowns, and each accepted job
    /// belongs to exactly one attempt.
    async fn providers_book(&self, findings: &mut Vec<String>) {
        let rows =
            sqlx::query("select a.handle, a.state::text, v.prompt from attempts a join videos v on v.id = a.video_id")
                .fetch_all(self.pool)
                .await
                .unwrap();
        let mut owned: HashMap<String, u32> = HashMap::new();
        let (mut delivered, mut failed) = (0u64, 0u64);
        let mut unresolved: HashMap<String, u64> = HashMap::new();
        for row in rows {
            let (handle, state, prompt): (Option<String>, String, String) = (row.get(0), row.get(1), row.get(2));
            match (handle, state.as_str()) {
                (Some(handle), state) => {
                    *owned.entry(job_of(handle)).or_default() += 1;
                    delivered += u64::from(state == "succeeded");
                    failed += u64::from(state != "succeeded");
                }
                (None, "unresolved") => *unresolved.entry(prompt).or_default() += 1,
                (None, _) => {}
            }
        }
        let known: HashSet<&str> = self.book.jobs.iter().map(|job| job.id.as_str()).collect();
        for (handle, owners) in &owned {
            if *owners > 1 {
                findings.push(format!("the provider's job {handle} belongs to {owners} attempts"));
            }
            if !known.contains(handle.as_str()) {
                findings.push(format!("the provider never gave out the handle {handle}"));
            }
        }
        let mut unknown = 0;
        for job in self.book.jobs.iter().filter(|job| !owned.contains_key(&job.id)) {
            match unresolved.get_mut(&job.prompt) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    unknown += 1;
                }
                _ => findings.push(format!(
                    "the provider's job {} ({:?}) belongs to no attempt: bought twice, or lost",
                    job.id, job.prompt
                )),
            }
        }
        let accepted = self.book.totals.accepted;
        if accepted != delivered + failed + unknown {
            findings.push(format!(
                "{accepted} jobs accepted, but {delivered} delivered, {failed} failed, {unknown} unknown"
            ));
        }
    }
}

/// The emulator's id of the job that a handle names: adapters keep its 24 hexadecimal digits in one form or another.
fn job_of(handle: String) -> String {
    let digits = handle.split(|c: char| !c.is_ascii_hexdigit()).find(|run| run.len() == 24).map(str::to_owned);
    digits.map_or(handle, |digits| format!("video_{digits}"))
}
