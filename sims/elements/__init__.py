"""The parts of an optical layout: what the world file says of them, and their knobs.

One module per family. A new kind of element is a model in :data:`ElementModel` and, where it has
a state or passes light, a class in :data:`MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from .auxiliaries import Attenuator, AttenuatorModel, OpticalSwitch, SwitchModel
from .base import Branching, Drifting, Optic, Passage
from .controllers import (
    LiquidCrystals,
    LiquidCrystalsModel,
    Paddles,
    PaddlesModel,
    Squeezers,
    SqueezersModel,
)
from .delay_generator import (
    CHANNELS,
    DelayGenerator,
    DelayGeneratorModel,
    Edges,
    Train,
)
from .detectors import DetectorModel, Diodes, SnspdArray, SnspdModel, SpadModel
from .eavesdropper import Eavesdropper, EavesdropperModel
from .emitter import EmitterModel
from .fibre import Fibre, FibreModel
from .free_space import FreeSpace, FreeSpaceModel, SatellitePass, SatellitePassModel
from .memory import DLCZModel, GasMemoryModel, MemoryModel, StorageModel, let_out
from .reference import Reference, ReferenceModel
from .sequencer import PulseSequencer, PulseSequencerModel
from .sources import (
    CrystalModel,
    Light,
    LightModel,
    Oven,
    OvenModel,
    PowerMeterHead,
    PowerMeterModel,
    PumpLaser,
    PumpLaserModel,
)
from .splitting import (
    AnalyzerModel,
    BellStationModel,
    Coupler,
    CouplerModel,
    PolarizingSplitterModel,
    SplitterModel,
)
from .tagger import TaggerInputs, TaggerModel
from .weak_coherent import WeakCoherentModel

__all__ = [
    "CHANNELS",
    "MAKERS",
    "AnalyzerModel",
    "Attenuator",
    "AttenuatorModel",
    "BellStationModel",
    "Branching",
    "Coupler",
    "CouplerModel",
    "CrystalModel",
    "DLCZModel",
    "DelayGenerator",
    "DelayGeneratorModel",
    "DetectorModel",
    "Diodes",
    "Drifting",
    "Eavesdropper",
    "EavesdropperModel",
    "Edges",
    "ElementModel",
    "EmitterModel",
    "Fibre",
    "FibreModel",
    "FreeSpace",
    "FreeSpaceModel",
    "GasMemoryModel",
    "Light",
    "LightModel",
    "LiquidCrystals",
    "LiquidCrystalsModel",
    "MemoryModel",
    "Optic",
    "OpticalSwitch",
    "Oven",
    "OvenModel",
    "Paddles",
    "PaddlesModel",
    "Passage",
    "PolarizingSplitterModel",
    "PowerMeterHead",
    "PowerMeterModel",
    "PulseSequencer",
    "PulseSequencerModel",
    "PumpLaser",
    "PumpLaserModel",
    "Reference",
    "ReferenceModel",
    "SatellitePass",
    "SatellitePassModel",
    "SnspdArray",
    "SnspdModel",
    "SpadModel",
    "SplitterModel",
    "Squeezers",
    "SqueezersModel",
    "StorageModel",
    "SwitchModel",
    "TaggerInputs",
    "TaggerModel",
    "Train",
    "WeakCoherentModel",
    "let_out",
]

ElementModel = Annotated[
    PumpLaserModel
    | OvenModel
    | PowerMeterModel
    | CrystalModel
    | WeakCoherentModel
    | EmitterModel
    | LightModel
    | FibreModel
    | FreeSpaceModel
    | SatellitePassModel
    | EavesdropperModel
    | PaddlesModel
    | SqueezersModel
    | LiquidCrystalsModel
    | AttenuatorModel
    | SwitchModel
    | AnalyzerModel
    | SplitterModel
    | PolarizingSplitterModel
    | CouplerModel
    | BellStationModel
    | MemoryModel
    | GasMemoryModel
    | DLCZModel
    | SnspdModel
    | SpadModel
    | TaggerModel
    | ReferenceModel
    | DelayGeneratorModel
    | PulseSequencerModel,
    Field(discriminator="kind"),
]

#: What makes the element of a model, for models that have one.
MAKERS: dict[type, Callable[[Any], object]] = {
    PumpLaserModel: PumpLaser,
    OvenModel: Oven,
    LightModel: Light,
    CouplerModel: Coupler,
    FibreModel: Fibre,
    FreeSpaceModel: FreeSpace,
    SatellitePassModel: SatellitePass,
    EavesdropperModel: Eavesdropper,
    PaddlesModel: Paddles,
    SqueezersModel: Squeezers,
    LiquidCrystalsModel: LiquidCrystals,
    AttenuatorModel: Attenuator,
    SwitchModel: OpticalSwitch,
    SnspdModel: SnspdArray,
    SpadModel: Diodes,
    TaggerModel: TaggerInputs,
    ReferenceModel: Reference,
    DelayGeneratorModel: DelayGenerator,
    PulseSequencerModel: PulseSequencer,
}
