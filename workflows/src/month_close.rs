//! One tenant's month: statement -> invoice -> notify.
//!
//! Always holds: no invoice is made from books that do not balance or are not closed; a month that cannot be closed halts
//! for a person instead of guessing; no credit moves, because a statement only tells what the ledger already says.
//!
//! Refuses to know: amounts, tax, and how an invoice looks.

closed_list! {
    /// Where a month's closing is.
    pub enum MonthCloseStep {
        /// Add up the month and check it against the ledger.
        Statement = "statement",
        /// Make the invoice for what is owed.
        Invoice = "invoice",
        /// Tell the tenant.
        Notify = "notify",
    }
}

closed_list! {
    /// How a step of a month's closing ended.
    pub enum MonthCloseEnd {
        /// Statement: made, and every line traces to the ledger.
        Stated = "stated",
        /// Statement: the ledger's hash chain has not reached the end of the month yet.
        BooksStillOpen = "books_still_open",
        /// Statement: the month does not add up.
        OutOfBalance = "out_of_balance",
        /// Statement: the time that closing may take is over.
        DeadlinePassed = "deadline_passed",
        /// Invoice: made.
        Invoiced = "invoiced",
        /// Invoice: everything was prepaid, there is nothing to bill.
        NothingOwed = "nothing_owed",
        /// Notify: the tenant was told.
        Notified = "notified",
        /// Notify: telling failed for good. Statement and invoice stay readable.
        NotificationGivenUp = "notification_given_up",
    }
}

/// What a month's closing does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonthCloseNext {
    /// Go on at once.
    Step(MonthCloseStep),
    /// The same step again after its own pause.
    Again(MonthCloseStep),
    /// Terminal until an operator has looked and starts the closing again.
    Halt,
    /// Terminal.
    Done,
}

/// The rules were asked about an end that the step cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a month closing's step `{}` cannot end with `{}`: the step that ran is not the step that was asked about; nothing was \
     decided, so leave the month open and report the defect",
    step.name(),
    end.name()
)]
pub struct ImpossibleEnd {
    /// The step that was asked about.
    pub step: MonthCloseStep,
    /// The end that it cannot have.
    pub end: MonthCloseEnd,
}

/// What a month's closing does after `step` ended with `end`.
///
/// # Errors
/// [`ImpossibleEnd`] when the step cannot end so.
pub fn next(step: MonthCloseStep, end: MonthCloseEnd) -> Result<MonthCloseNext, ImpossibleEnd> {
    use MonthCloseEnd as End;
    use MonthCloseNext as Next;
    use MonthCloseStep as Step;
    match (step, end) {
        (Step::Statement, End::Stated) => Ok(Next::Step(Step::Invoice)),
        (Step::Statement, End::BooksStillOpen) => Ok(Next::Again(Step::Statement)),
        (Step::Statement, End::OutOfBalance | End::DeadlinePassed) => Ok(Next::Halt),
        (Step::Invoice, End::Invoiced | End::NothingOwed) => Ok(Next::Step(Step::Notify)),
        (Step::Notify, End::Notified | End::NotificationGivenUp) => Ok(Next::Done),
        (Step::Invoice | Step::Notify, End::Stated | End::BooksStillOpen | End::OutOfBalance | End::DeadlinePassed)
        | (Step::Statement | Step::Notify, End::Invoiced | End::NothingOwed)
        | (Step::Statement | Step::Invoice, End::Notified | End::NotificationGivenUp) => {
            Err(ImpossibleEnd { step, end })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_follows_only_from_a_statement_that_traces_to_the_ledger() {
        let to_invoice: Vec<MonthCloseEnd> = MonthCloseEnd::all()
            .into_iter()
            .filter(|end| {
                let answers = MonthCloseStep::all().into_iter().filter_map(|step| next(step, *end).ok());
                answers.into_iter().any(|answer| answer == MonthCloseNext::Step(MonthCloseStep::Invoice))
            })
            .collect();
        assert_eq!(to_invoice, [MonthCloseEnd::Stated]);
    }

    #[test]
    fn books_that_do_not_balance_halt_for_a_person() {
        assert_eq!(next(MonthCloseStep::Statement, MonthCloseEnd::OutOfBalance), Ok(MonthCloseNext::Halt));
        assert_eq!(next(MonthCloseStep::Statement, MonthCloseEnd::DeadlinePassed), Ok(MonthCloseNext::Halt));
    }

    #[test]
    fn an_end_belongs_to_exactly_one_step() {
        for end in MonthCloseEnd::all() {
            let steps = MonthCloseStep::all().into_iter().filter(|step| next(*step, end).is_ok()).count();
            assert_eq!(steps, 1, "{end:?}");
        }
    }
}
