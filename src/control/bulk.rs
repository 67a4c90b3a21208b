//! Many batches at once: what the filter names is looked for, then [`batches::bulk`](crate::batches::bulk) does it.

use super::{ControlError, Controls};
use crate::batches::bulk::{self, Action, Affected, Filter};
use crate::domain::Wrong;
use crate::operators::Said;
use crate::tenants;

impl Controls {
    /// What an action would change now.
    ///
    /// # Errors
    /// [`ControlError::Invalid`], or the database's.
    pub async fn preview(&self, action: Action, filter: &Filter) -> Result<Affected, ControlError> {
        self.find_all(filter).await?;
        Ok(bulk::preview(&self.db, action, filter).await?)
    }

    /// Does it, if it changes exactly as many batches as are expected; answers them.
    ///
    /// # Errors
    /// [`ControlError::Invalid`], [`ControlError::Differs`], or the database's.
    pub async fn change_batches(
        &self,
        action: Action,
        (filter, expected): (&Filter, u32),
        said: &Said,
    ) -> Result<Affected, ControlError> {
        self.find_all(filter).await?;
        Ok(bulk::apply(&self.db, action, (filter, expected), said).await?)
    }

    /// A slip in a name must not choose nothing.
    async fn find_all(&self, filter: &Filter) -> Result<(), ControlError> {
        let mut wrong = Vec::new();
        let mut add = |field: String, detail: String| wrong.push(Wrong { pointer: format!("/filter/{field}"), detail });
        let mut conn = self.db.pool().acquire().await?;
        if let Some(tenant) = filter.tenant
            && !tenants::exists(&mut conn, tenant).await?
        {
            add("tenant".to_owned(), format!("names no tenant: there is no {tenant}"));
        }
        if let Some(model) = &filter.model
            && !self.plan.get().models.contains_key(model)
            && !bulk::has_model(&mut conn, model).await?
        {
            add("model".to_owned(), "names no model of these settings, nor of any batch that has not ended".to_owned());
        }
        if let Some(ids) = &filter.ids {
            let unknown = bulk::unknown(&mut conn, ids).await?;
            for (at, id) in ids.iter().enumerate().filter(|(_, id)| unknown.contains(id)) {
                add(format!("ids/{at}"), format!("names no batch: there is no {id}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(ControlError::Invalid(wrong)) }
    }
}
