//! The order service on the other side of gRPC, for a gateway.

use std::{sync::Arc, time::Duration};

use order_core::{Clock, OrderWatch};
use order_hub::{Hub, HubConfig};
use order_rpc::{RemoteOrderApi, RunningLanes};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{lifecycle::Exit, presence::Presence};

/// How long the calls under way may take to end.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The service behind gRPC, with the lanes that call it and what follows orders there.
pub(crate) struct Remote {
    pub(crate) api: Arc<RemoteOrderApi>,
    pub(crate) hub: Arc<Hub>,
    lanes: TaskTracker,
    stop: CancellationToken,
}

impl Remote {
    pub(crate) fn start(
        (api, lanes): (RemoteOrderApi, RunningLanes),
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let api = Arc::new(api);
        let config = HubConfig {
            // The service is told what to pass on.
            tracks_topics: true,
            ..HubConfig::default()
        };
        // It needs no reconcile pass: the hub of the service has one.
        let hub = Hub::new(config, Arc::clone(&api) as _, Arc::clone(clock));
        let watch = Arc::clone(&hub) as Arc<dyn OrderWatch>;
        let following = api.watch_through(&watch, Arc::clone(&hub) as _);
        let tracker = TaskTracker::new();
        for lane in lanes.into_iter().chain([following]) {
            tracker.spawn(lane);
        }
        Self {
            api,
            hub,
            lanes: tracker,
            stop: CancellationToken::new(),
        }
    }

    /// Has `presence` report until the end. Here is nothing to pause.
    pub(crate) fn run_presence(&self, presence: Presence) {
        let task = presence.task(Arc::clone(&self.api) as _, |_| {}, self.stop.clone());
        self.lanes.spawn(self.api.supervisor().run(task));
    }

    pub(crate) async fn stop(self) -> Exit {
        self.stop.cancel();
        self.hub.close();
        self.api.close();
        self.lanes.close();
        if timeout(CUT_TIMEOUT, self.lanes.wait()).await.is_err() {
            tracing::error!("calls to the service had to be cut");
            return Exit::Unclean;
        }
        Exit::Clean
    }
}
