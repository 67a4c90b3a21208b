//! The fence, transition by transition: whoever was replaced is told so and changes nothing, whatever it wants to write.
//!
//! The test is both workers itself, so that the order of their writes is its choice and not luck.

use freezeframe_workflows::money::CreditMove;
use std::sync::Arc;

use freezeframe::domain::{AttemptId, AttemptState, Credits, FailureClass};
use freezeframe::engine::queue::Ticket;
use freezeframe::engine::recorder::Journal;
use freezeframe::service::Roles;
use freezeframe::steps::record::{
    AttemptEnd, Claim, ClaimedVideo, Close, Output, Reply, Transition, Verdict, VideoJournal,
};
use sqlx::Connection;

use crate::app::client::order_of;
use crate::app::{API_AND_SCHEDULER, TestApp, TestSettings};

/// Everything that a transition can change, as one text.
const EVERYTHING: &str = "select jsonb_build_array(
    (select jsonb_agg(t order by t.id) from videos t), (select jsonb_agg(t order by t.id) from attempts t),
    (select jsonb_agg(t order by t.id) from batches t), (select jsonb_agg(t) from batch_lanes t),
    (select jsonb_agg(t) from batch_holds t), (select jsonb_agg(t) from wallets t),
    (select jsonb_agg(t) from settlements t), (select jsonb_agg(t order by t.id) from credit_ledger t),
    (select jsonb_agg(jsonb_build_array(t.id, t.status, t.lock_by, t.attempts) order by t.id) from apalis.jobs t))::text";

async fn everything(app: &TestApp) -> String {
    sqlx::query_scalar(EVERYTHING).fetch_one(app.pool()).await.unwrap()
}

async fn write(app: &TestApp, op: Transition) -> Reply {
    let mut tx = app.pool().begin().await.unwrap();
    let reply = VideoJournal.write(&mut tx, &[op]).await.unwrap().remove(0);
    tx.commit().await.unwrap();
    reply
}

/// Two workers that live in the test's head, and one released video with its job.
async fn one_released_video() -> TestApp {
    let app = TestApp::start(TestSettings { roles: API_AND_SCHEDULER, ..TestSettings::default() }).await;
    for worker in ["first", "second"] {
        app.execute(&format!(
            "insert into apalis.workers (id, worker_type, storage_name, last_seen) values ('{worker}', 'generate', 'test', now())"
        ))
        .await;
    }
    // it does not beat, and is not to be taken for dead
    app.execute(
        "insert into workers (name, queue, slots, seen_at) values ('first', 'generate', 1, now() + interval '1 hour')",
    )
    .await;
    let customer = app.customer(1_000).await;
    customer.order(&order_of(1, "a calm sea")).await;
    app.until("the video is released", async || app.count("select count(*) from apalis.jobs").await == 1).await;
    app
}

/// The job's row goes to a worker, as by a fetch or after a rescue.
async fn take(app: &TestApp, worker: &str) -> Ticket {
    let statement = "update apalis.jobs set status = 'Queued', lock_by = $1, lock_at = now(), attempts = attempts + 1
                     returning id, attempts";
    let (id, attempts): (String, i32) = sqlx::query_as(statement).bind(worker).fetch_one(app.pool()).await.unwrap();
    Ticket { id: id.parse().unwrap(), attempts }
}

fn claim(worker: &str, ticket: Ticket) -> Transition {
    Transition::Claim(Claim { ticket, worker: Arc::from(worker), claim_id: AttemptId::generate() })
}

async fn claimed(app: &TestApp, worker: &str) -> ClaimedVideo {
    let ticket = take(app, worker).await;
    match write(app, claim(worker, ticket)).await {
        Reply::Claimed(video) => *video,
        other => panic!("{other:?}"),
    }
}

fn close(video: &ClaimedVideo, state: AttemptState, failure: Option<FailureClass>, verdict: Verdict) -> Transition {
    let attempt = AttemptEnd {
        state,
        handle: None,
        failure,
        message: failure.map(|_| "too late".to_owned()),
        blames_account: false,
        possible_cost: Credits::ZERO,
        may_succeed: false,
    };
    let credits = match verdict {
        Verdict::Succeed(_) => CreditMove::Charge,
        Verdict::Fail => CreditMove::Refund,
        Verdict::RetryLater { .. } => CreditMove::Nothing,
    };
    Transition::Close(Box::new(Close { lease: video.lease.clone(), batch: video.batch, attempt, verdict, credits }))
}

fn failed(video: &ClaimedVideo) -> Transition {
    close(video, AttemptState::Failed, Some(FailureClass::Timeout), Verdict::Fail)
}

/// One of each kind, and of each verdict.
fn every_transition(video: &ClaimedVideo) -> Vec<Transition> {
    let lease = video.lease.clone();
    let mut stored = close(
        video,
        AttemptState::Succeeded,
        None,
        Verdict::Succeed(Output { key: "another".to_owned(), bytes: 1, sha256: [0; 32], thumbnail: None }),
    );
    if let Transition::Close(close) = &mut stored {
        close.attempt.handle = Some("another".to_owned());
    }
    let later = Verdict::RetryLater { delay_ms: 1, spends_attempt: true };
    vec![
        Transition::Sending { lease: lease.clone() },
        Transition::Accepted { lease: lease.clone(), handle: "another".to_owned() },
        Transition::AnswerLost { lease: lease.clone(), cause: "another".to_owned() },
        Transition::HandOver { lease },
        stored,
        close(video, AttemptState::Failed, Some(FailureClass::Timeout), later),
        failed(video),
    ]
}

async fn assert_all_refused(app: &TestApp, stale: &ClaimedVideo) {
    let before = everything(app).await;
    for transition in every_transition(stale) {
        let wanted = format!("{transition:?}");
        let reply = write(app, transition).await;
        assert!(matches!(reply, Reply::LeaseLost), "{wanted} was answered {reply:?}");
        assert_eq!(everything(app).await, before, "{wanted} changed something");
    }
}

async fn end(mut app: TestApp) {
    app.stop_service().await;
    app.set_roles(Roles::ALL);
    app.start_service().await;
    app.all_batches_end().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_worker_is_refused_every_transition_before_and_after_its_successors_end() {
    let app = one_released_video().await;
    let stale = claimed(&app, "first").await;
    let fresh = claimed(&app, "second").await;
    assert_eq!((fresh.lease.attempt, fresh.lease.epoch), (stale.lease.attempt, stale.lease.epoch + 1));
    assert_all_refused(&app, &stale).await;
    let lost = Transition::AnswerLost { lease: fresh.lease.clone(), cause: "cut".to_owned() };
    assert!(matches!(write(&app, lost).await, Reply::Written));
    assert!(matches!(write(&app, failed(&fresh)).await, Reply::Written));
    assert_all_refused(&app, &stale).await;
    // its own end, written again, is answered as before
    let before = everything(&app).await;
    assert!(matches!(write(&app, failed(&fresh)).await, Reply::Written));
    assert_eq!(everything(&app).await, before);
    end(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_went_on_cannot_be_claimed_with_the_old_ticket() {
    let app = one_released_video().await;
    let old = take(&app, "first").await;
    let older = Ticket { attempts: old.attempts - 1, ..old };
    let ticket = take(&app, "second").await;
    let before = everything(&app).await;
    // another worker's by now; this worker's, but from before it was given back
    for (worker, ticket) in [("first", old), ("second", old), ("second", older), ("first", ticket)] {
        let reply = write(&app, claim(worker, ticket)).await;
        assert!(matches!(reply, Reply::LeaseLost), "{worker} with {ticket:?} was answered {reply:?}");
        assert_eq!(everything(&app).await, before);
    }
    let Reply::Claimed(video) = write(&app, claim("second", ticket)).await else { panic!("not claimed") };
    assert!(matches!(write(&app, failed(&video)).await, Reply::Written));
    end(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_set_back_gives_an_epoch_out_twice_and_refuses_whoever_has_it_from_before() {
    let app = one_released_video().await;
    let first = claimed(&app, "first").await;
    let stale = claimed(&app, "second").await;
    // as it was before the second claim
    let (epoch, claim) = (first.lease.epoch, first.lease.claim.bare());
    app.execute(&format!("update videos set lease_epoch = {epoch}, claim_id = '{claim}', deaths = 0")).await;
    app.execute(&format!("update attempts set lease_epoch = {epoch}, worker = 'first'")).await;
    let fresh = claimed(&app, "second").await;
    assert_eq!((fresh.lease.attempt, fresh.lease.epoch), (stale.lease.attempt, stale.lease.epoch));
    assert_eq!(fresh.attempt.id, stale.attempt.id);
    assert_all_refused(&app, &stale).await;
    assert!(matches!(write(&app, failed(&fresh)).await, Reply::Written));
    assert_all_refused(&app, &stale).await;
    end(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waited_for_a_claim_to_commit_is_refused() {
    let app = one_released_video().await;
    let stale = claimed(&app, "first").await;
    let ticket = take(&app, "second").await;
    // written, not committed: whoever writes about the video now waits for it, with a snapshot from before it
    let mut claiming = app.pool().begin().await.unwrap();
    let reply = VideoJournal.write(&mut claiming, &[claim("second", ticket)]).await.unwrap().remove(0);
    let Reply::Claimed(fresh) = reply else { panic!("{reply:?}") };
    let transitions = every_transition(&stale);
    let waiting = transitions.len() as i64;
    let writes: Vec<_> = transitions
        .into_iter()
        .map(|transition| {
            let url = app.db.url.clone();
            tokio::spawn(async move {
                let wanted = format!("{transition:?}");
                let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
                let mut tx = conn.begin().await.unwrap();
                let reply = VideoJournal.write(&mut tx, &[transition]).await.unwrap().remove(0);
                tx.commit().await.unwrap();
                (wanted, reply)
            })
        })
        .collect();
    let blocked =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    app.until("all wait for the claim", async || app.count(blocked).await == waiting).await;
    claiming.commit().await.unwrap();
    for write in writes {
        let (wanted, reply) = write.await.unwrap();
        assert!(matches!(reply, Reply::LeaseLost), "{wanted} was answered {reply:?}");
    }
    let lost = Transition::AnswerLost { lease: fresh.lease.clone(), cause: "cut".to_owned() };
    assert!(matches!(write(&app, lost).await, Reply::Written));
    assert!(matches!(write(&app, failed(&fresh)).await, Reply::Written));
    end(app).await;
}
