"""What is to be known of the VMAS worlds of conf/env before they are made; the modules of the worlds pass it on.

`vmas/scenario` and `vmas/custom` have no card: they take any scenario, the package's debugging ones too.
"""

from __future__ import annotations

from gcoord.envs.cards import Card

_SIDE = "the square's sides and the episode grow with sqrt(n / {})"
_ONE_GOAL = "one goal serves the whole batch until all teams are reset, as the package has it"


def _fixed(n: int, knows: str, random: float, note: str = "") -> Card:
    """A scenario that has one team size, as it is."""
    return Card((n,), knows, smallest=n, largest=n, extra="vmas", random=random, note=note)


CARDS = {
    "vmas/balance": Card(
        (2, 3, 6),
        "its velocity; where package, line and goal are; how line and package move",
        smallest=2,
        entities="package and goal, with their velocities",
        arena="line, load and floor grow with n / 3; the way to the goal and the episode stay",
        extra="vmas",
        random=-8.14,
        scripted=4.62,
        note="the script carries the load without reaching the goal within the 100 steps",
    ),
    "vmas/ball_passage": _fixed(2, "its position and velocity; where goal, ball and the passage are", -0.0381),
    "vmas/ball_trajectory": _fixed(
        2,
        "its position and velocity; where the ball is",
        0.0287,
        "the reward falls to the first agent alone, the second one's is always 0, as the package computes it",
    ),
    "vmas/buzz_wire": _fixed(2, "its position and velocity; where the goal is", -6.90),
    "vmas/discovery": Card(
        (2, 5, 10),
        "its velocity; its place in the arena",
        entities="targets, each with its position",
        arena=_SIDE.format(5) + ", the targets with n / 5 from 7",
        extra="vmas",
        random=0.06,
        scripted=4.40,
        note="a target wants two agents at once; a single one earns nothing",
    ),
    "vmas/dispersion": Card(
        (2, 4, 8),
        "its velocity",
        entities="the food, as much as there are agents",
        arena=_SIDE.format(4),
        extra="vmas",
        random=0.085,
        scripted=1.0,
    ),
    "vmas/dropout": Card(
        (2, 4, 8),
        "its velocity; where the goal is; whether it was reached",
        arena=_SIDE.format(4),
        extra="vmas",
        random=-4.27,
        scripted=0.814,
    ),
    "vmas/flocking": Card(
        (2, 4, 8),
        "its velocity; where the target is",
        entities="obstacles and the target, with their velocities",
        arena=_SIDE.format(4) + ", the obstacles with n / 4 from 5",
        extra="vmas",
        random=-0.276,
        scripted=0.960,
    ),
    "vmas/football": Card(
        (2, 3, 5),
        "its velocity; where the ball is, how it moves, its way to the goal",
        entities="the ball and the red players, with their velocities",
        arena="pitch, goals and the episode grow with sqrt(n / 3)",
        extra="vmas",
        random=-114.0,
        scripted=-108.0,
        note="against as many red players of the package's own script, which wins at its default strength; the script "
        "here scores in every episode against env.ai_strength=0.3 and likewise ai_decision_ and ai_precision_strength",
    ),
    "vmas/give_way": _fixed(2, "its position and velocity", 0.00166),
    "vmas/joint_passage": _fixed(2, "its position and velocity; where goal and passage are, the angles", -0.110),
    "vmas/joint_passage_size": _fixed(2, "its position and velocity; where goal and both passages are", -0.0493),
    "vmas/multi_give_way": _fixed(4, "its position and velocity; where its goal is", 0.0218),
    "vmas/navigation": Card(
        (2, 4, 8),
        "its velocity; where its goal is, at most 1 away; what 12 rays of length 0.35 meet",
        arena=_SIDE.format(4),
        extra="vmas",
        random=-0.989,
        scripted=1.0,
    ),
    "vmas/passage": _fixed(5, "its position and velocity; where its goal and the passage are", -44.5),
    "vmas/reverse_transport": Card(
        (2, 4, 8),
        "its velocity; where the package is, its way to the goal and its velocity",
        arena="the package's sides grow with sqrt(n / 4) and its weight with n / 4; the way to the goal stays",
        extra="vmas",
        random=-0.00592,
        scripted=50.2,
    ),
    "vmas/road_traffic": Card(
        (3, 6, 20),
        "its speed; its way, lane and kerbs ahead; the two nearest vehicles; all with noise",
        smallest=3,
        largest=60,
        extra="vmas",
        note="the map stays what it is, so that a larger team has less room; any touch ends the team's episode; with 6 "
        "agents, over 32 episodes: random -0.61, scripted 0.58",
    ),
    "vmas/sampling": Card(
        (2, 3, 6),
        "its velocity; its place in the field; what is to be had in the 8 cells around",
        arena=_SIDE.format(3) + ", the hills with n",
        extra="vmas",
        random=8.51,
        scripted=33.6,
    ),
    "vmas/simple": _fixed(1, "its velocity; where the landmark is", -145.0),
    "vmas/simple_adversary": Card(
        (2, 3, 6),
        "where the goal is; the adversary nothing",
        smallest=2,
        entities="landmarks, one of which is the goal",
        arena=_SIDE.format(3),
        extra="vmas",
        random=-16.3,
        scripted=8.51,
        note="one adversary against all others; " + _ONE_GOAL,
    ),
    "vmas/simple_crypto": _fixed(3, "alice a secret and a key, bob the key and the word said, eve the word", -44.8),
    "vmas/simple_push": _fixed(
        2, "its velocity; where the landmarks and the other are; one the goal", -57.8, _ONE_GOAL
    ),
    "vmas/simple_reference": _fixed(
        2, "its velocity; where the landmarks are; the other's goal and the word said", -222.0, _ONE_GOAL
    ),
    "vmas/simple_speaker_listener": _fixed(
        2,
        "the speaker the goal's colour; the listener its velocity, the landmarks and the word said",
        -214.0,
        _ONE_GOAL + "; experiments/complex_speaker_listener has one for each team, and any team size",
    ),
    "vmas/simple_spread": Card(
        (2, 3, 6),
        "its velocity",
        entities="the landmarks, as many as agents",
        arena=_SIDE.format(3),
        extra="vmas",
        random=-584.0,
        scripted=-194.0,
        note="the reward grows with the square of the team",
    ),
    "vmas/simple_tag": Card(
        (2, 4, 8),
        "its velocity; its place in the arena",
        smallest=2,
        entities="obstacles, each with its position",
        arena=_SIDE.format(4) + ", the obstacles with n / 2",
        extra="vmas",
        random=3.5,
        scripted=102.0,
        note="both kinds act, one of every four agents is prey; the figures are means over both",
    ),
    "vmas/simple_world_comm": _fixed(
        6, "its position and velocity; landmarks, the others, the leader's word; in a forest who is in it", 7.09
    ),
    "vmas/transport": Card(
        (2, 4, 8),
        "its velocity; where the nearest package is, its way to the goal and velocity",
        entities="the packages, with their way to the goal and velocities",
        arena=_SIDE.format(4) + ", the packages with n / 4",
        extra="vmas",
        random=0.00397,
        scripted=23.2,
    ),
    "vmas/wheel": Card(
        (2, 4, 8),
        "its velocity; where the line and its ends are, its angle and speed of turning",
        arena=_SIDE.format(4) + ", the line's length and weight with them",
        extra="vmas",
        random=-4.97,
        scripted=-3.54,
    ),
    "vmas/wind_flocking": _fixed(2, "its velocity; how the other moves and where it is", -0.325),
}
