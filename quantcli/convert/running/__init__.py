"""Running a plan: conversion.py has the stages, run.py the slabs, workplace.py the `.partial` folder."""
