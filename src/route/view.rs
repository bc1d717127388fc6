//! The part of an endpoint's target that the daemon's registry of live endpoints reads.

use std::sync::Arc;

use super::PreparedTarget;
use crate::config::{Endpoint, User};
use crate::credential::Recipe;
use crate::telemetry::live::RouteView;
use crate::telemetry::status::{AddressRow, WarmRow};

impl RouteView for PreparedTarget {
    fn endpoint(&self) -> &Arc<Endpoint> {
        PreparedTarget::endpoint(self)
    }

    fn addresses(&self) -> Vec<AddressRow> {
        self.address_rows()
    }

    fn warm(&self) -> Vec<WarmRow> {
        self.warm_rows()
    }

    fn recipes(&self, user: &User) -> Vec<Recipe> {
        PreparedTarget::recipes(self, user)
    }
}
