//! `marram:edge/methods`: a guest calls a method of another module, and waits within the bounds of its own call.

use std::time::Duration;

use marram_core::methods::{InvokeError, MAX_PAYLOAD_BYTES, MethodRequest, Timeouts};
use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};

use self::bindings::marram::edge::{method_types, methods};
use super::messaging::within;
use crate::state::GuestState;

#[allow(missing_docs, unreachable_pub)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package marram:engine;
            world methods {
                import marram:edge/methods@0.1.0;
            }
        ",
        world: "marram:engine/methods",
        imports: {
            "marram:edge/methods@0.1.0.invoke": async | trappable,
        },
    });
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    method_types::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    methods::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)
}

impl method_types::Host for GuestState {}

impl methods::Host for GuestState {
    async fn invoke(
        &mut self,
        target: String,
        name: String,
        payload: String,
        options: methods::CallOptions,
    ) -> Result<Result<methods::MethodResponse, methods::InvokeError>> {
        let timeouts = Timeouts {
            response: options.response_timeout_ms.map(Duration::from_millis),
            connect: options.connect_timeout_ms.map(Duration::from_millis),
        };
        let request = match MethodRequest::new(&name, &payload, timeouts) {
            Ok(request) => request,
            Err(bad) => return Ok(Err(methods::InvokeError::Invalid(bad.to_string()))),
        };
        let until = self.deadline.wait_until();
        let answer = within(until, self.host.invoke(target, request)).await?;
        Ok(match answer {
            Ok(answer) => Ok(methods::MethodResponse { status: answer.status, payload: answer.payload }),
            Err(error) => Err(error.into()),
        })
    }
}

// What the host hands in comes back whole: the largest payload fits into what a guest may pass.
const _: () = assert!(MAX_PAYLOAD_BYTES < crate::state::HOSTCALL_BYTES);

impl From<InvokeError> for methods::InvokeError {
    fn from(error: InvokeError) -> Self {
        match error {
            InvokeError::Bad(bad) => Self::Invalid(bad.to_string()),
            InvokeError::Unknown(_) => Self::NotFound,
            InvokeError::NotRunning { .. } => Self::NotRunning,
            InvokeError::Timeout { .. } => Self::Timeout,
            InvokeError::Denied(why) => Self::Denied(why),
            InvokeError::Busy(_) => Self::Busy,
            InvokeError::Stopping => Self::ShuttingDown,
        }
    }
}
