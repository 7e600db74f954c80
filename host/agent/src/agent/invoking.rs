//! Calls of methods from outside: the operator's, and the cloud's through [`DirectMethods`].

use marram_core::{
    methods::{InvokeError, MethodRequest, MethodResponse},
    ports::{BoxFuture, DirectMethods},
};

use super::Agent;
use crate::{
    delivery::sleep_until,
    methods::{EDGE_AGENT, EDGE_HUB},
};

impl DirectMethods for Agent {
    fn invoke<'a>(
        &'a self,
        target: &'a str,
        request: MethodRequest,
    ) -> BoxFuture<'a, Result<MethodResponse, InvokeError>> {
        Box::pin(async move {
            let answer = async {
                match target {
                    EDGE_AGENT => {
                        let response = request.response();
                        let due = self.clock.uptime().after(response);
                        tokio::select! {
                            biased;
                            answer = self.edge_agent(&request) => Ok(answer),
                            () = sleep_until(self.clock, Some(due)) => {
                                Err(InvokeError::Timeout { module: EDGE_AGENT.into(), response })
                            }
                        }
                    }
                    EDGE_HUB => {
                        let message =
                            format!("`{EDGE_HUB}` has no method `{}`; `{EDGE_AGENT}` has some", request.name());
                        Ok(MethodResponse::error(404, &message))
                    }
                    module => self.methods.invoke(None, module, request).await,
                }
            };
            tokio::select! {
                biased;
                result = answer => result,
                () = self.stopped() => Err(InvokeError::Stopping),
            }
        })
    }
}

#[cfg(test)]
impl Agent {
    /// Who has its permit reads logs for `GetModuleLogs`.
    pub(crate) fn log_turn(&self) -> std::sync::Arc<tokio::sync::Semaphore> {
        self.log_turn.clone()
    }

    /// How many calls of a module have ended.
    pub(crate) fn calls_of(&self, module: &str) -> u64 {
        self.methods.numbers().iter().filter(|pair| &*pair.to == module).map(|pair| pair.calls.count).sum()
    }

    /// Where the calls of a module wait.
    pub(crate) fn method_box(&self, module: &str) -> std::sync::Arc<crate::methods::MethodBox> {
        self.methods.of(&marram_core::name::ModuleName::new(module).expect("a name"))
    }
}
