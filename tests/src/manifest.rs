//! Builds deployment manifests. Writes what it is told, also what is wrong.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A deployment manifest in the making.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    modules: Map<String, Value>,
    routes: Map<String, Value>,
    twins: Map<String, Value>,
    credentials: Map<String, Value>,
    rollout: Option<Value>,
}

impl Manifest {
    /// Nothing in it yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a module.
    #[must_use]
    pub fn module(mut self, name: &str, module: Module) -> Self {
        self.modules.insert(name.into(), module.0);
        self
    }

    /// Adds a route, as text.
    #[must_use]
    pub fn route(self, name: &str, route: &str) -> Self {
        self.route_object(name, json!(route))
    }

    /// Adds a route, as any JSON value.
    #[must_use]
    pub fn route_object(mut self, name: &str, route: Value) -> Self {
        self.routes.insert(name.into(), route);
        self
    }

    /// Adds a route from all outputs of a module to upstream.
    #[must_use]
    pub fn upstream(self, module: &str) -> Self {
        self.route(&format!("{module}-up"), &format!("FROM /messages/modules/{module}/outputs/* INTO $upstream"))
    }

    /// Adds or replaces the desired properties of a module.
    #[must_use]
    pub fn twin(mut self, module: &str, desired: Value) -> Self {
        self.twins.insert(module.into(), desired);
        self
    }

    /// Adds credentials for a registry.
    #[must_use]
    pub fn credentials(mut self, address: &str, username: &str, password: &str) -> Self {
        let entry = json!({ "address": address, "username": username, "password": password });
        self.credentials.insert("registry".into(), entry);
        self
    }

    /// `marram` of `$edgeAgent`: when it counts as good.
    #[must_use]
    pub fn rollout(mut self, options: Value) -> Self {
        self.rollout = Some(options);
        self
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut content = json!({
            "$edgeAgent": { "properties.desired": {
                "schemaVersion": "1.1",
                "runtime": { "type": "docker", "settings": { "registryCredentials": self.credentials } },
                "modules": self.modules,
            }},
            "$edgeHub": { "properties.desired": {
                "schemaVersion": "1.1",
                "routes": self.routes,
                "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 },
            }},
        });
        if let Some(rollout) = &self.rollout {
            content["$edgeAgent"]["properties.desired"]["marram"] = rollout.clone();
        }
        for (module, desired) in &self.twins {
            content[module] = json!({ "properties.desired": desired });
        }
        json!({ "modulesContent": content })
    }
}

/// One module of a manifest: running, restarted always, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Module(Value);

impl Module {
    /// A module of this image.
    #[must_use]
    pub fn new(image: &str) -> Self {
        Self(json!({
            "type": "wasm", "status": "running", "restartPolicy": "always", "settings": { "image": image, "sandbox": {} },
        }))
    }

    /// `restartPolicy`.
    #[must_use]
    pub fn policy(mut self, policy: &str) -> Self {
        self.0["restartPolicy"] = policy.into();
        self
    }

    /// `status`.
    #[must_use]
    pub fn status(mut self, status: &str) -> Self {
        self.0["status"] = status.into();
        self
    }

    /// `startupOrder`.
    #[must_use]
    pub fn order(mut self, order: u32) -> Self {
        self.0["startupOrder"] = order.into();
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0["env"][name] = json!({ "value": value });
        self
    }

    /// The command that `misbehaving` carries out in its start.
    #[must_use]
    pub fn misbehave(self, command: &Value) -> Self {
        self.env("MISBEHAVE", &command.to_string())
    }

    /// The command line of a program.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.0["settings"]["sandbox"]["args"] = json!(args);
        self
    }

    /// A limit: `memory`, `handlerTime`, `handlerWall`.
    #[must_use]
    pub fn limit(mut self, name: &str, value: &str) -> Self {
        self.0["settings"]["sandbox"]["limits"][name] = value.into();
        self
    }

    /// `health`: a method to call, and how.
    #[must_use]
    pub fn health(mut self, check: Value) -> Self {
        self.0["settings"]["sandbox"]["health"] = check;
        self
    }

    /// A folder of this machine, to read and write.
    #[must_use]
    pub fn writes(mut self, host: &Path, guest: &str) -> Self {
        let mount = json!({ "host": host, "guest": guest, "access": "read-write" });
        self.0["settings"]["sandbox"]["filesystem"] = json!([mount]);
        self
    }

    /// `/proc` of this machine, to read.
    #[must_use]
    pub fn reads_proc(mut self) -> Self {
        self.0["settings"]["sandbox"]["filesystem"] = json!([{ "host": "/proc", "guest": "/proc" }]);
        self
    }
}
