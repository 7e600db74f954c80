//! The methods of `$edgeAgent`, as IoT Edge's agent answers them: 200, 400 for what is wrong with the call, 500 for what fails.

use marram_core::{
    edge_agent::{AgentCall, method_name},
    methods::{MAX_PAYLOAD_BYTES, MethodRequest, MethodResponse},
};
use serde_json::json;

use super::Agent;

impl Agent {
    /// Answers a call of `$edgeAgent`.
    pub(super) async fn edge_agent(&self, request: &MethodRequest) -> MethodResponse {
        if let Some(name) = method_name(request.name()) {
            self.methods.note_agent_call(name);
        }
        let result = match AgentCall::read(request) {
            Err(why) => return MethodResponse::error(400, &why),
            Ok(AgentCall::Ping) => Ok(Some("null".to_owned())),
            Ok(AgentCall::RestartModule { id }) => self.restart(&id).await.map(|()| Some("null".to_owned())),
            Ok(AgentCall::GetTaskStatus { correlation_id }) => {
                let status = json!({ "status": "Unknown", "message": "", "correlationId": correlation_id });
                Ok(Some(status.to_string()))
            }
            Ok(AgentCall::GetModuleLogs(request)) => self.module_logs(request).await,
        };
        match result {
            Ok(Some(payload)) if payload.len() <= MAX_PAYLOAD_BYTES => MethodResponse { status: 200, payload },
            Ok(_) => {
                let message = format!(
                    "the answer takes more than the {MAX_PAYLOAD_BYTES} bytes that can travel; ask for fewer lines (`tail`, \
                     `since`, `until`), fewer modules, or for gzip"
                );
                MethodResponse::error(400, &message)
            }
            Err(error) => MethodResponse::error(500, &error.to_string()),
        }
    }
}
