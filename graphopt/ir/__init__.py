"""The intermediate representation: dimensions, types, values, nodes, graphs, and their text.

Importing it does not load torch: a graph can be read, verified, compared and printed without.
"""

from __future__ import annotations

from graphopt.ir.attributes import Attribute, Ref, attribute_text, evaluate_attribute, freeze_attribute, refs_of
from graphopt.ir.builder import Builder
from graphopt.ir.data import Data, TensorData
from graphopt.ir.dims import Dim, Expression, evaluate_dim, max_dim, min_dim, product, symbol, symbols_of
from graphopt.ir.graph import CallStructure, Graph, GraphEditor, Node, Operand, Range, Source, State, StateKind, Use, Value, operand_values
from graphopt.ir.parser import parse
from graphopt.ir.printer import node_text, operand_text, show, value_text
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType
from graphopt.ir.verifier import verify_structure

__all__ = [
    "Attribute",
    "Builder",
    "CallStructure",
    "DType",
    "Data",
    "Dim",
    "Expression",
    "Graph",
    "GraphEditor",
    "Node",
    "Operand",
    "Range",
    "Ref",
    "Source",
    "Sparsity",
    "SparsityPattern",
    "State",
    "StateKind",
    "TensorData",
    "TensorType",
    "Use",
    "Value",
    "attribute_text",
    "evaluate_attribute",
    "evaluate_dim",
    "freeze_attribute",
    "max_dim",
    "min_dim",
    "node_text",
    "operand_text",
    "operand_values",
    "parse",
    "product",
    "refs_of",
    "show",
    "symbol",
    "symbols_of",
    "value_text",
    "verify_structure",
]
