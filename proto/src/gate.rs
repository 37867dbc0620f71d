//! What a role does about `Freeze`: nothing new comes in, and who is inside hears of it and leaves. For roles with a runtime;
//! the others have one thread and keep the reason beside their state.

use crate::edge::Refusal;
use tokio::sync::watch;

/// Open until it is closed, with a reason.
#[derive(Debug)]
pub struct Gate {
    why: watch::Sender<Option<String>>,
    inside: watch::Sender<usize>,
}

/// The right to be inside; given back when it is dropped.
#[derive(Debug)]
pub struct Pass<'g>(&'g Gate);

impl Default for Gate {
    fn default() -> Self {
        Self { why: watch::Sender::new(None), inside: watch::Sender::new(0) }
    }
}

impl Gate {
    /// Lets nobody in from now on.
    pub fn close(&self, why: &str) {
        self.why.send_replace(Some(why.to_owned()));
    }

    /// Lets everybody in again.
    pub fn open(&self) {
        self.why.send_replace(None);
    }

    /// What whoever comes now is told; none while it is open.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.why.borrow().as_deref().map(Refusal::lockdown)
    }

    /// Lets one in.
    ///
    /// # Errors
    /// [`Refusal`] where it is closed.
    pub fn enter(&self) -> Result<Pass<'_>, Refusal> {
        match self.refusal() {
            Some(refusal) => Err(refusal),
            None => {
                self.inside.send_modify(|inside| *inside = inside.saturating_add(1));
                Ok(Pass(self))
            }
        }
    }

    /// Carries `work` out inside, unless it is closed, and until it is.
    ///
    /// # Errors
    /// [`Refusal`] where it is closed, or of the work.
    pub async fn within<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let _pass = self.enter()?;
        tokio::select! {
            outcome = work => outcome,
            refusal = self.closed() => Err(refusal),
        }
    }

    /// Waits until it is closed.
    pub async fn closed(&self) -> Refusal {
        let mut why = self.why.subscribe();
        // The sender lives as long as this borrow of it.
        let closed = why.wait_for(Option::is_some).await;
        Refusal::lockdown(closed.ok().as_deref().and_then(Option::as_deref).unwrap_or_default())
    }

    /// Waits until nobody is inside.
    pub async fn emptied(&self) {
        let _ = self.inside.subscribe().wait_for(|inside| *inside == 0).await;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.inside.send_modify(|inside| *inside = inside.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closed_gate_lets_nobody_in_and_tells_who_is_inside() {
        let gate = Gate::default();
        assert_eq!(gate.within(async { Ok(7) }).await.unwrap(), 7);
        let inside = gate.within(std::future::pending::<Result<(), Refusal>>());
        let close = async {
            tokio::task::yield_now().await;
            gate.close("why");
            gate.emptied().await;
        };
        let (refused, ()) = tokio::join!(inside, close);
        let refusal = refused.unwrap_err();
        assert!(refusal.rule.as_str() == "lockdown" && refusal.message.contains("why"));
        assert!(gate.enter().is_err());
        gate.open();
        assert!(gate.refusal().is_none() && gate.enter().is_ok());
    }

    #[tokio::test]
    async fn gate_is_empty_only_when_the_last_pass_is_given_back() {
        let gate = Gate::default();
        let pass = gate.enter().unwrap();
        gate.close("why");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), gate.emptied()).await.is_err());
        drop(pass);
        gate.emptied().await;
    }
}
