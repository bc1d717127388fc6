//! The part of a route that the daemon's registry of live endpoints reads.

use std::sync::Arc;

use super::Route;
use crate::config::{Endpoint, User};
use crate::credential::Recipe;
use crate::telemetry::live::RouteView;
use crate::telemetry::status::{AddressRow, WarmRow};

impl RouteView for Route {
    fn endpoint(&self) -> &Arc<Endpoint> {
        Route::endpoint(self)
    }

    fn addresses(&self) -> Vec<AddressRow> {
        self.places()
    }

    fn warm(&self) -> Vec<WarmRow> {
        Route::warm(self)
    }

    fn recipes(&self, user: &User) -> Vec<Recipe> {
        Route::recipes(self, user)
    }
}
