//! Stateright's view of a scene. Its checker has to agree with our own exploration (tested).

use stateright::{Model, Property};

use crate::moves::{Move, moves};
use crate::scene::{Breach, Scene};
use crate::step::step;
use crate::world::World;

impl Model for Scene {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new(self);
        world.canon(self);
        vec![world]
    }

    fn actions(&self, world: &World, out: &mut Vec<Move>) {
        moves(world, self, out);
    }

    fn next_state(&self, world: &World, next: Move) -> Option<World> {
        let mut after = step(world, next, self)?;
        after.canon(self);
        (after != *world).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn holds<const BREACH: usize>(_: &Scene, world: &World) -> bool {
            world.broken != Some(Breach::ALL[BREACH])
        }
        vec![
            Property::always(Breach::ALL[0].property(), holds::<0>),
            Property::always(Breach::ALL[1].property(), holds::<1>),
            Property::always(Breach::ALL[2].property(), holds::<2>),
            Property::always(Breach::ALL[3].property(), holds::<3>),
            Property::always(Breach::ALL[4].property(), holds::<4>),
            Property::always(Breach::ALL[5].property(), holds::<5>),
            Property::always(Breach::ALL[6].property(), holds::<6>),
        ]
    }
}
