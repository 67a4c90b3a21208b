//! The ledger as it should be, in memory: no database, no SQL, nothing taken from the code under test.

use std::collections::{BTreeMap, BTreeSet};

use super::act::TENANTS;

/// What an act comes to, by name and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The balance after it.
    Balance(i64),
    /// What may still be spent.
    Frozen(i64),
    Settled,
    Finalized {
        status: &'static str,
        charged: i64,
        refunded: i64,
        first_time: bool,
    },
    NotCredits,
    OutOfRange,
    NoWallet,
    Short {
        required: i64,
        available: i64,
    },
    Overdraft {
        required: i64,
        available: i64,
    },
    HoldsDoNotCover,
    /// The database's own refusal, by its state.
    Database(String),
    /// Two of its checks refuse, and which of them comes first is the planner's affair.
    EitherOf(&'static str, &'static str),
    /// There is nothing to do it to.
    Nothing,
}

impl Outcome {
    pub fn database(state: &str) -> Outcome {
        Outcome::Database(state.to_owned())
    }

    /// Whether this end is the one that was expected.
    pub fn allows(&self, found: &Outcome) -> bool {
        match (self, found) {
            (Outcome::EitherOf(one, other), Outcome::Database(state)) => state == one || state == other,
            _ => self == found,
        }
    }

    /// Why nothing was done, if it was refused.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Outcome::Balance(_) | Outcome::Frozen(_) | Outcome::Settled | Outcome::Finalized { .. } => None,
            Outcome::Nothing => None,
            Outcome::Short { .. } => Some("short".to_owned()),
            Outcome::Overdraft { .. } => Some("overdraft".to_owned()),
            Outcome::Database(state) => Some(state.clone()),
            other => Some(format!("{other:?}")),
        }
    }

    /// Whether the transaction is of no use after it.
    pub fn breaks_the_transaction(&self) -> bool {
        // a range is left inside of a statement or before it; both are safe behind a savepoint
        matches!(self, Outcome::Database(_) | Outcome::EitherOf(..) | Outcome::OutOfRange | Outcome::HoldsDoNotCover)
    }
}

/// (tenant, source, batch, reason) -> (amount, videos, batch's place)
type Refunds = BTreeMap<(String, usize, String, &'static str), (i128, i32, usize)>;

/// A row of the ledger: act, tenant, source, batch, amount, before, after, videos.
pub type Row = (&'static str, String, usize, Option<String>, i64, i64, i64, i32);

#[derive(Clone, Debug)]
pub struct Hold {
    pub source: usize,
    pub starts_at: i64,
    pub frozen: i64,
    pub refunded: i64,
    pub charged: i64,
}

impl Hold {
    pub fn held(&self) -> i64 {
        self.frozen - self.refunded - self.charged
    }

    fn share(&self, offset: i64, price: i64) -> i64 {
        let end = (i128::from(offset) + i128::from(price)).min(i128::from(self.starts_at) + i128::from(self.frozen));
        (end - i128::from(offset.max(self.starts_at))).max(0) as i64
    }
}

#[derive(Clone, Debug)]
pub struct Video {
    pub id: String,
    pub price: i64,
    pub offset: i64,
    /// Whether it was refunded.
    pub settled: Option<bool>,
}

#[derive(Clone, Debug)]
pub struct Batch {
    pub id: String,
    pub tenant: usize,
    pub holds: Vec<Hold>,
    pub videos: Vec<Video>,
    pub finished: Option<(&'static str, i64, i64)>,
}

impl Batch {
    pub fn is_settled(&self) -> bool {
        self.videos.iter().all(|video| video.settled.is_some())
    }

    fn frozen(&self) -> i64 {
        self.holds.iter().map(|hold| hold.frozen).sum()
    }
}

/// A refund or a charge that is asked for: batch, video, price, offset, reason.
pub struct Settling {
    pub batch: usize,
    pub video: usize,
    pub price: i64,
    pub offset: i64,
    pub failure: Option<&'static str>,
}

pub struct Model {
    /// Ids of the tenants, then of one that does not exist.
    pub tenants: Vec<String>,
    /// Available, by tenant and source.
    pub wallets: Vec<[i64; 3]>,
    pub batches: Vec<Batch>,
    pub rows: Vec<Row>,
}

impl Model {
    pub fn new(tenants: Vec<String>) -> Model {
        Model { tenants, wallets: vec![[0; 3]; TENANTS], batches: Vec::new(), rows: Vec::new() }
    }

    fn available(&self, tenant: usize) -> i128 {
        self.wallets.get(tenant).map_or(0, |wallet| wallet.iter().map(|balance| i128::from(*balance)).sum())
    }

    pub fn move_in(&mut self, act: &'static str, (tenant, source): (usize, usize), amount: i64) -> Outcome {
        if amount < 0 {
            return Outcome::NotCredits;
        }
        if amount == 0 {
            return Outcome::OutOfRange;
        }
        let Some(wallet) = self.wallets.get_mut(tenant) else { return Outcome::NoWallet };
        let before = wallet[source];
        let Some(after) = before.checked_add(amount) else { return Outcome::OutOfRange };
        wallet[source] = after;
        self.rows.push((act, self.tenants[tenant].clone(), source, None, amount, before, after, 0));
        Outcome::Balance(after)
    }

    pub fn take_out(&mut self, (tenant, source): (usize, usize), amount: i64) -> Outcome {
        if amount < 0 {
            return Outcome::NotCredits;
        }
        if amount == 0 {
            return Outcome::OutOfRange;
        }
        let Some(wallet) = self.wallets.get_mut(tenant) else { return Outcome::NoWallet };
        let before = wallet[source];
        if before < amount {
            return Outcome::Overdraft { required: amount, available: before };
        }
        wallet[source] = before - amount;
        self.rows.push(("adjustment", self.tenants[tenant].clone(), source, None, amount, before, before - amount, 0));
        Outcome::Balance(before - amount)
    }

    /// `new` is absent for a batch that exists.
    pub fn freeze(&mut self, tenant: usize, prices: &[i64], new: Option<Batch>) -> Outcome {
        if prices.iter().any(|price| *price < 0) {
            return Outcome::NotCredits;
        }
        let Some(total) = prices.iter().try_fold(0i64, |sum, price| sum.checked_add(*price)) else {
            return Outcome::NotCredits;
        };
        let available = self.available(tenant);
        let Ok(available) = i64::try_from(available) else { return Outcome::database("22003") };
        if available < total {
            return Outcome::Short { required: total, available };
        }
        let Some(mut batch) = new else { return Outcome::database("23505") };
        let mut starts_at = 0;
        for source in 0..3 {
            let Some(balance) = self.wallets.get_mut(tenant).map(|wallet| &mut wallet[source]) else { break };
            let drawn = (*balance).min(total - starts_at);
            if drawn == 0 {
                continue;
            }
            let before = *balance;
            *balance -= drawn;
            batch.holds.push(Hold { source, starts_at, frozen: drawn, refunded: 0, charged: 0 });
            let (id, videos) = (Some(batch.id.clone()), prices.len() as i32);
            self.rows.push(("freeze", self.tenants[tenant].clone(), source, id, drawn, before, before - drawn, videos));
            starts_at += drawn;
        }
        self.batches.push(batch);
        Outcome::Frozen(available - total)
    }

    pub fn settle(&mut self, ends: &[Settling]) -> Outcome {
        let mut seen = BTreeSet::new();
        let again = |end: &Settling| self.batches[end.batch].videos[end.video].settled.is_some();
        if ends.iter().any(|end| again(end) || !seen.insert((end.batch, end.video))) {
            return Outcome::database("23505");
        }
        let mut acts = Refunds::new();
        let (mut covered, mut expected) = (0i128, 0i128);
        for (end, reason) in ends.iter().filter_map(|end| Some((end, end.failure?))) {
            let batch = &self.batches[end.batch];
            expected += i128::from(end.price);
            for hold in &batch.holds {
                let share = hold.share(end.offset, end.price);
                if share > 0 {
                    covered += i128::from(share);
                    let key = (self.tenants[batch.tenant].clone(), hold.source, batch.id.clone(), reason);
                    let act = acts.entry(key).or_insert((0, 0, end.batch));
                    *act = (act.0 + i128::from(share), act.1 + 1, act.2);
                }
            }
        }
        if let Some(refused) = self.refused(&acts) {
            return refused;
        }
        if covered != expected {
            return Outcome::HoldsDoNotCover;
        }
        for ((tenant_id, source, batch_id, _), (amount, videos, batch)) in acts {
            let (amount, tenant) = (amount as i64, self.batches[batch].tenant);
            let before = self.wallets[tenant][source];
            self.wallets[tenant][source] += amount;
            let hold = self.batches[batch].holds.iter_mut().find(|hold| hold.source == source).unwrap();
            hold.refunded += amount;
            self.rows.push(("refund", tenant_id, source, Some(batch_id), amount, before, before + amount, videos));
        }
        for end in ends {
            self.batches[end.batch].videos[end.video].settled = Some(end.failure.is_some());
        }
        Outcome::Settled
    }

    /// What the database's own checks say of refunds.
    fn refused(&self, acts: &Refunds) -> Option<Outcome> {
        let (mut wallets, mut holds) = (BTreeMap::new(), BTreeMap::new());
        for ((_, source, _, _), (amount, _, batch)) in acts {
            *wallets.entry((self.batches[*batch].tenant, *source)).or_insert(0i128) += amount;
            *holds.entry((*batch, *source)).or_insert(0i128) += amount;
        }
        let fits = |(tenant, source): &(usize, usize), sum: &i128| {
            i128::from(self.wallets[*tenant][*source]) + sum <= i128::from(i64::MAX)
        };
        let overflows = !wallets.iter().all(|(wallet, sum)| fits(wallet, sum));
        let over = holds.iter().any(|((batch, source), sum)| {
            let hold = self.batches[*batch].holds.iter().find(|hold| hold.source == *source).unwrap();
            i128::from(hold.held()) < *sum
        });
        match (overflows, over) {
            (true, true) => Some(Outcome::EitherOf("22003", "23514")),
            (true, false) => Some(Outcome::database("22003")),
            (false, true) => Some(Outcome::database("23514")),
            (false, false) => None,
        }
    }

    /// `None` is a batch that does not exist.
    pub fn finalize(&mut self, batch: Option<usize>) -> Outcome {
        let Some(batch) = batch.map(|at| &mut self.batches[at]) else { return Outcome::database("P0002") };
        if let Some((status, charged, refunded)) = batch.finished {
            return Outcome::Finalized { status, charged, refunded, first_time: false };
        }
        if !batch.is_settled() {
            return Outcome::database("P0002");
        }
        let failed = batch.videos.iter().filter(|video| video.settled == Some(true)).count();
        let status = match (failed, batch.videos.len()) {
            (0, _) => "completed",
            (failed, all) if failed == all => "failed",
            _ => "partial",
        };
        let made = (batch.videos.len() - failed) as i32;
        let (mut charged, mut refunded) = (0, 0);
        for hold in &mut batch.holds {
            let held = hold.held();
            if held > 0 {
                let tenant = self.tenants[batch.tenant].clone();
                self.rows.push(("charge", tenant, hold.source, Some(batch.id.clone()), held, held, 0, made));
            }
            hold.charged = held;
            charged += held;
            refunded += hold.refunded;
        }
        batch.finished = Some((status, charged, refunded));
        Outcome::Finalized { status, charged, refunded, first_time: true }
    }

    /// Issued (as a debt), available, held, revenue; `None` when a sum does not fit.
    pub fn books(&self) -> Option<[i64; 4]> {
        let sum = |of: &mut dyn Iterator<Item = i64>| i64::try_from(of.map(i128::from).sum::<i128>()).ok();
        let issued = self.rows.iter().map(|row| match row.0 {
            "grant" => -row.4,
            "adjustment" => row.5 - row.6,
            _ => 0,
        });
        let holds = || self.batches.iter().flat_map(|batch| &batch.holds);
        Some([
            sum(&mut issued.into_iter())?,
            sum(&mut self.wallets.iter().flatten().copied())?,
            sum(&mut holds().map(Hold::held))?,
            sum(&mut holds().map(|hold| hold.charged))?,
        ])
    }

    pub fn greedy(&self, batch: usize, video: usize, more: i64) -> Option<Settling> {
        let price = self.batches[batch].frozen().checked_add(more)?;
        Some(Settling { batch, video, price, offset: 0, failure: Some("timeout") })
    }
}
