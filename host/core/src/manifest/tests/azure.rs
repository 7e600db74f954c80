//! A manifest as the cloud's tooling writes them: an outer `content`, system modules, options as text in text.

use std::time::Duration;

use super::*;
use crate::deployment::{DEFAULT_PRIORITY, RestartPolicy};

const MANIFEST: &str = r##"{
  "$schema-template": "4.0.0",
  "content": {
    "modulesContent": {
      "$edgeAgent": {
        "properties.desired": {
          "schemaVersion": "1.1",
          "runtime": {
            "type": "docker",
            "settings": {
              "minDockerVersion": "v1.25",
              "loggingOptions": "",
              "registryCredentials": {
                "plant": { "username": "line7", "password": "not-a-real-one", "address": "registry.plant.test:5000" }
              }
            }
          },
          "systemModules": {
            "edgeAgent": {
              "type": "docker",
              "settings": { "image": "registry.plant.test/edge-agent:1.5", "createOptions": "{}" }
            },
            "edgeHub": {
              "type": "docker",
              "status": "running",
              "restartPolicy": "always",
              "startupOrder": 0,
              "settings": {
                "image": "registry.plant.test/edge-hub:1.5",
                "createOptions": "{\"HostConfig\":{\"PortBindings\":{\"443/tcp\":[{\"HostPort\":\"443\"}]}}}"
              }
            }
          },
          "modules": {
            "BoilerSensor": {
              "version": "1.0",
              "type": "docker",
              "status": "running",
              "restartPolicy": "always",
              "startupOrder": 1,
              "env": { "INTERVAL": { "value": 5 }, "VERBOSE": { "value": false } },
              "settings": {
                "image": "registry.plant.test:5000/boiler-sensor:2.3",
                "createOptions": "{\"HostConfig\":{\"Binds\":[\"/proc:/proc:ro\"]},\"marram\":{\"limits\":{\"memory\":\"16MiB\"},\"filesystem\":[{\"host\":\"/proc\",\"guest\":\"/proc\",\"access\":\"read-only\"}]}}"
              }
            },
            "AlarmFilter": {
              "version": "1.0",
              "type": "docker",
              "status": "running",
              "settings": { "image": "registry.plant.test:5000/alarm-filter:1", "createOptions": "{}" }
            }
          }
        }
      },
      "$edgeHub": {
        "properties.desired": {
          "schemaVersion": "1.2",
          "routes": {
            "SensorToFilter": "FROM /messages/modules/BoilerSensor/outputs/* INTO BrokeredEndpoint(\"/modules/AlarmFilter/inputs/readings\")",
            "AlarmsUp": {
              "route": "FROM /messages/modules/AlarmFilter/outputs/alarms INTO $upstream",
              "priority": 0,
              "timeToLiveSecs": 86400
            }
          },
          "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 }
        }
      },
      "AlarmFilter": {
        "properties.desired": { "limits": { "pressure": { "max": 6.5 } }, "unit": "bar" }
      }
    }
  }
}"##;

#[test]
fn a_manifest_of_the_clouds_tooling_is_read_as_it_is() {
    let reading = read_str(MANIFEST).unwrap();
    let deployment = &reading.deployment;

    let sensor = &deployment.modules["BoilerSensor"];
    assert_eq!((sensor.restart_policy, sensor.startup_order), (RestartPolicy::Always, 1));
    assert_eq!((sensor.env["INTERVAL"].as_str(), sensor.env["VERBOSE"].as_str()), ("5", "false"));
    assert_eq!((sensor.sandbox.memory_bytes, sensor.sandbox.mounts.len()), (16 << 20, 1));
    assert_eq!(deployment.modules["AlarmFilter"].restart_policy, RestartPolicy::OnUnhealthy);
    assert_eq!(deployment.modules.len(), 2, "system modules are not modules");

    let routes: Vec<_> = deployment.routes.iter().map(|route| (route.name.as_str(), route.priority)).collect();
    assert_eq!(routes, [("SensorToFilter", DEFAULT_PRIORITY), ("AlarmsUp", 0)]);
    assert_eq!(deployment.routes[1].time_to_live, Some(Duration::from_secs(86400)));
    assert_eq!(deployment.twins["AlarmFilter"]["unit"], json!("bar"));
    assert_eq!(deployment.registry_credentials[0].address, "registry.plant.test:5000");

    let options = "content.modulesContent.$edgeAgent.properties.desired.modules.BoilerSensor.settings.createOptions";
    assert_eq!(lines(&reading.warnings), [format!("{options}: options of a container, ignored: `HostConfig`")]);
    assert_eq!(reading.notes.len(), 2, "runtime and system modules");
}
