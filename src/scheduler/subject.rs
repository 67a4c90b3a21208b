//! Whose turns: the tenant's, the account's, the model's, the batch's.

use crate::domain::{BatchId, TenantId};

/// Who has turns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Tenant(TenantId),
    Account(String),
    Model(String),
    Batch(BatchId),
}

impl Subject {
    /// As it stands in the log.
    pub(super) fn stored(&self) -> String {
        match self {
            Subject::Tenant(id) => format!("tenant:{}", id.bare()),
            Subject::Account(name) => format!("account:{name}"),
            Subject::Model(name) => format!("model:{name}"),
            Subject::Batch(id) => format!("batch:{}", id.bare()),
        }
    }

    pub(super) fn from_stored(text: &str) -> Option<Subject> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "tenant" => TenantId::from_bare(rest).ok().map(Subject::Tenant),
            "account" => Some(Subject::Account(rest.to_owned())),
            "model" => Some(Subject::Model(rest.to_owned())),
            "batch" => BatchId::from_bare(rest).ok().map(Subject::Batch),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_is_known_again() {
        let subjects = [
            Subject::Tenant(TenantId::generate()),
            Subject::Account("a:b".to_owned()),
            Subject::Model("veo-3.1".to_owned()),
            Subject::Batch(BatchId::generate()),
        ];
        for subject in subjects {
            assert_eq!(Subject::from_stored(&subject.stored()), Some(subject));
        }
        for text in ["tenant:x", "other:x", "", "account"] {
            assert_eq!(Subject::from_stored(text), None, "{text}");
        }
    }
}
